"""A copy (fork) of this process that becomes a command, and ends as the command does."""

import os
import signal
import sys
import traceback


def become(command):
    """In the copy: calls `command`, and ends this process with its exit code, or by the signal that stopped it."""
    code = 1
    try:
        command()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
