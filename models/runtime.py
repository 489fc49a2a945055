"""How TensorFlow runs in this process; called by the program that owns the process, never at import."""

from __future__ import annotations

import tensorflow as tf


def single_thread() -> None:
    """One intra-op and one inter-op thread, so that results do not depend on the machine's cores.

    Jobs fill a machine, not threads. To be called before TensorFlow does any work in the process; a
    second call is harmless, a late one is an error.
    """
    threading = tf.config.threading
    for read, write in (
        (threading.get_intra_op_parallelism_threads, threading.set_intra_op_parallelism_threads),
        (threading.get_inter_op_parallelism_threads, threading.set_inter_op_parallelism_threads),
    ):
        if read() != 1:
            write(1)
