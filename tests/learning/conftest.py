"""Learning tests run with one thread, as training jobs do."""

from models import runtime

runtime.single_thread()
