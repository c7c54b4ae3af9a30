"""The store of stage results: what was computed once is read back, whichever run asks for it."""

from pipeline.store.entry import Entry
from pipeline.store.folder import store_folder
from pipeline.store.keys import state_digest, store_key
from pipeline.store.store import Step, Store

__all__ = ["Entry", "Step", "Store", "state_digest", "store_folder", "store_key"]
