"""Start-up settings of JAX, XLA and TensorFlow, set only by calls of these functions, never by an import."""
import contextlib
import ctypes
import errno
import importlib.metadata
import importlib.util
import logging
import os
import socket
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from modern_cnn.errors import UserError


def cache_dir() -> Path:
    """Return the directory of decoded data sets and compiled programs: $MODERN_CNN_CACHE, or the user's own cache."""
    own = os.environ.get("MODERN_CNN_CACHE")
    try:
        return Path(own or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "modern_cnn")).expanduser()
    except RuntimeError:
        return Path(os.devnull, "modern_cnn")  # a user without a home has none, and nothing can be written here


def cpu_info() -> dict[str, str]:
    """Return what Linux says of the processor: {'model name': ..., 'flags': ...}; nothing on other systems."""
    try:
        lines = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in lines}


def cores() -> int:
    """Return how many cores this process may use, on which speed and the last bits of sums depend."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_vectors() -> str:
    """Return the widest vectors of the processor, on which speed and the last bits of sums depend; '' if unknown."""
    flags = cpu_info().get("flags", "").split()
    return next((name for flag, name in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if flag in flags), "")


def tree() -> Path:
    """Return the folder that has configs/ and scripts/: modern_cnn/tree where a wheel is installed, or the checkout."""
    package = Path(__file__).resolve().parent
    return package / "tree" if (package / "tree").is_dir() else package.parent


def config_file(name: str) -> str:
    """Return the file of a config, FILE:VARIANT, that may be given by its name alone: 'lenet:lenet_bn'."""
    file, colon, variant = name.partition(":")
    places = [Path(file), tree() / file, tree() / "configs" / f"{file}.py"]
    return f"{next((place for place in places if place.is_file()), file)}{colon}{variant}"


@contextlib.contextmanager
def own_configs() -> Iterator[None]:
    """Let configs import `configs.base` from the folder of ours, also where the user has a package `configs`.

    Other modules of theirs are found as before, and their package is as it was afterwards.
    """
    def imported() -> dict[str, types.ModuleType]:
        return {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "configs"}

    before, package = imported(), types.ModuleType("configs")
    package.__path__ = [str(tree() / "configs"), *(os.path.join(place, "configs") for place in sys.path)]
    for name in before:
        del sys.modules[name]
    sys.modules["configs"] = package
    try:
        yield
    finally:
        for name in imported():
            del sys.modules[name]
        sys.modules.update(before)


def hold(file: IO, wait: bool = False) -> None:
    """Lock an open file until it is closed, or its process ends in any way. Raise OSError if that cannot be.

    Its errno is EWOULDBLOCK or EACCES if another process holds the file (unless this one shall `wait`).
    """
    try:
        import fcntl
    except ImportError:  # not Unix
        try:
            import msvcrt
        except ImportError:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
        file.seek(2**30)  # behind the content, so that others can read it
        msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)  # pyright: ignore
    else:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


# XLA's CPU compiler gives single convolutions to its YNN library, where they take twice as long as in Eigen (two cores
# of a Xeon, jaxlib 0.10.2). An unknown flag aborts the process; these versions know it.
CPU_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
CPU_FLAG_VERSIONS = ("0.10.2", "0.11.2", "0.12.0")
# It also removes optimization barriers before it fuses operations. This flag keeps the barriers that
# functional/formulations.py sets, so that no array is computed several times (DenseNet takes two thirds of the time).
# Only CPUs can run barriers that are left, and XLA reads its flags before it knows the devices: so the flag is set only
# where no accelerator is installed.
BARRIER_FLAG = "--xla_disable_hlo_passes"


# Parameters of glibc's mallopt, from its malloc.h, and the value with which the end of the heap is never given back.
TRIM_THRESHOLD, MMAP_MAX, NEVER = -1, -4, -1


def only_cpu() -> bool:
    """Return whether JAX will run on CPUs; it tells before JAX is imported."""
    accelerated = (any(map(importlib.util.find_spec, ("libtpu", "jax_plugins")))
                   or importlib.metadata.entry_points(group="jax_plugins"))
    return not accelerated or os.environ.get("JAX_PLATFORMS") == "cpu"


def set_xla_flags() -> None:
    """Add the flags that make CPUs faster to XLA_FLAGS, unless the user has set them; call it before importing JAX."""
    flags = os.environ.get("XLA_FLAGS", "")
    if CPU_FLAG not in flags and importlib.metadata.version("jaxlib").startswith(CPU_FLAG_VERSIONS):
        flags += f" {CPU_FLAG}=-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"
    if BARRIER_FLAG not in flags and only_cpu():
        flags += f" {BARRIER_FLAG}=cse_barrier_expander"
    os.environ["XLA_FLAGS"] = flags.strip()


def allocator() -> str:
    """Return what the environment says of the allocator of memory; '' if it says nothing."""
    return " ".join(f"{name}={value}" for name, value in sorted(os.environ.items())
                    if name in ("GLIBC_TUNABLES", "LD_PRELOAD") or name.startswith("MALLOC_"))


def keep_memory() -> bool:
    """Make glibc keep the memory of a step for the next one, and return whether it does.

    Otherwise it gives large blocks back to the system, and the next step gets them page by page, which takes a
    fifth of DenseNet's time (docs/speed.md). False on accelerators, on other systems, and where the environment sets
    the allocator.
    """
    if allocator() or not only_cpu():
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # other C libraries, other systems, Windows
        return False
    return bool(mallopt(MMAP_MAX, 0) and mallopt(TRIM_THRESHOLD, NEVER))


def configure(*, debug_nans: bool = False, cache: bool = True, keep: bool = True) -> None:
    """Set XLA's flags, the memory, the compilation cache and others' log levels. Every script and notebook calls it.

    Call it first. With `debug_nans` the first operation that makes a NaN stops the program and is named (slow: buffers
    are not donated). `cache` keeps compiled programs for the next process; False if the compilation is measured.
    `keep` calls `keep_memory`; then a CPU computes in the thread that asks, because glibc keeps large blocks only of
    the main thread.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # oneDNN writes to stderr at any log level
    set_xla_flags()
    import jax
    from absl import logging as absl_logging

    absl_logging.set_verbosity(absl_logging.FATAL)  # Orbax logs every step; its errors are raised as well
    if cache:
        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # A cache that cannot be written (the disk is full, for example) costs only time.
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache")
    jax.config.update("jax_debug_nans", debug_nans)
    if keep and keep_memory():
        jax.config.update("jax_cpu_enable_async_dispatch", False)


def join_processes(coordinator: str, count: int, index: int) -> None:
    """Make this process number `index`, from 0, of `count` that train together. Call it before any computation.

    `coordinator` is HOST:PORT of the first process; 'auto' where the cluster knows all three values (TPU pods, SLURM).
    Raise UserError for another text, for 'auto' where there is no cluster, or if the other processes did not join.
    """
    import jax

    try:
        if coordinator == "auto":
            jax.distributed.initialize()
        else:
            host, _, port = coordinator.rpartition(":")
            if not host or not 0 < int(port) < 2**16:
                raise ValueError("there is no such host or port")
            socket.getaddrinfo(host.strip("[]"), int(port))
            jax.distributed.initialize(coordinator, count, index)
    except (ValueError, OSError, OverflowError, RuntimeError) as e:
        raise UserError(f"--coordinator={coordinator}, {count} processes: {str(e)[:300]} - it must be the HOST:PORT of "
                        "the first process; 'auto' needs a TPU pod or SLURM") from e
    if jax.process_index():
        logging.getLogger("modern_cnn").setLevel(logging.ERROR)  # the first process logs for all
