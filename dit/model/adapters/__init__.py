"""ADAPTERS: one a file, registered by name. A network is built, adapted, then loaded or trained."""

from dit.model.adapters.adapter import Adapter, adapter_from_spec, register_adapter, trained
from dit.model.adapters.freeze import Freeze

__all__ = ["Adapter", "Freeze", "adapter_from_spec", "register_adapter", "trained"]
