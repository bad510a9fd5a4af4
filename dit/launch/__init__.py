"""STARTING PROCESSES: the ranks of a job, the trials of a sweep. Every job is composed once, by one process; the others
of its group are handed what that one composed, and so agree on every key and on the output directory.
"""

from dit.launch.configuration import adopt, plain
from dit.launch.devices import check_starter, count_ranks, pick_device
from dit.launch.entry import entry
from dit.launch.folder import CheckFolder, CheckTilde, held
from dit.launch.group import RANK_OF, Group, this_group
from dit.launch.job import Job
from dit.launch.manifest import Manifest, Trial
from dit.launch.ranks import Ranks, wait
from dit.launch.recipe import settled
from dit.launch.sweep import Slots, Sweep, TrialPlan
from dit.launch.task import Mistake, Task, sentence

__all__ = [
    "RANK_OF",
    "CheckFolder",
    "CheckTilde",
    "Group",
    "Job",
    "Manifest",
    "Mistake",
    "Ranks",
    "Slots",
    "Sweep",
    "Task",
    "Trial",
    "TrialPlan",
    "adopt",
    "check_starter",
    "count_ranks",
    "entry",
    "held",
    "pick_device",
    "plain",
    "sentence",
    "settled",
    "this_group",
    "wait",
]
