"""The one place that sets what JAX, XLA and TensorFlow read at start-up. Importing the package sets nothing."""
import importlib.metadata
import importlib.util
import logging
import os
import warnings
from pathlib import Path


def cache_dir() -> Path:
    """Where decoded data sets and compiled programs are kept: $MODERN_CNN_CACHE, or modern_cnn in the user's cache."""
    if os.environ.get("MODERN_CNN_CACHE"):
        return Path(os.environ["MODERN_CNN_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "modern_cnn"


# XLA's CPU compiler hands single convolutions to its YNN library, where they take twice as long as in Eigen (two cores
# of a Xeon, jaxlib 0.10.2). A flag that a version does not know would abort the process: these do.
CPU_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
CPU_FLAG_VERSIONS = ("0.10.2", "0.11.2", "0.12.0")
# It also drops optimization barriers before it fuses. Kept, they stop it from computing arrays anew, several times and
# out of order, where functional/formulations.py says so (DenseNet takes two thirds of the time). CPUs alone know how
# to run what is left of them, and flags are read before devices are known: only where no accelerator is installed.
BARRIER_FLAG = "--xla_disable_hlo_passes"


def set_xla_flags() -> None:
    """Adds to XLA_FLAGS what makes CPUs faster, unless the user has settled it. Before JAX is imported."""
    flags = os.environ.get("XLA_FLAGS", "")
    if CPU_FLAG not in flags and importlib.metadata.version("jaxlib").startswith(CPU_FLAG_VERSIONS):
        flags += f" {CPU_FLAG}=-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"
    accelerated = (any(map(importlib.util.find_spec, ("libtpu", "jax_plugins")))
                   or importlib.metadata.entry_points(group="jax_plugins"))
    if BARRIER_FLAG not in flags and (not accelerated or os.environ.get("JAX_PLATFORMS") == "cpu"):
        flags += f" {BARRIER_FLAG}=cse_barrier_expander"
    os.environ["XLA_FLAGS"] = flags.strip()


def configure(*, debug_nans: bool = False, cache: bool = True) -> None:
    """Called first by every script: XLA's flags, compilation cache on, TensorFlow quiet.

    Args:
      cache: keep compiled programs for the next process; off where compilation is what is measured.
      debug_nans: stop at the first operation that makes a NaN, and say which (slow: it disables donation).
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # it announces itself on stderr, whatever the log level
    set_xla_flags()
    import jax

    if cache:
        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # A cache that cannot be written, on a full disk say, costs time and nothing else.
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache")
    jax.config.update("jax_debug_nans", debug_nans)


def join_processes(coordinator: str, count: int, index: int) -> None:
    """Makes this process one of several that train together. Before anything is computed.

    Args:
      coordinator: HOST:PORT of the first process; 'auto' where the cluster says all three (TPU pods, SLURM).
      count, index: how many there are, and which this is.
    Raises:
      RuntimeError: the others did not come.
    """
    import jax

    if coordinator == "auto":
        jax.distributed.initialize()
    else:
        jax.distributed.initialize(coordinator, count, index)
    if jax.process_index():
        logging.getLogger("modern_cnn").setLevel(logging.ERROR)  # the first speaks for all
