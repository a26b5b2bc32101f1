"""This process and its memory."""
import ctypes
import sys
from pathlib import Path


def peak_memory() -> float:
    """This process' peak memory so far, GiB; 0 where the system does not tell as Linux does.

    Not getrusage: after a fork and exec its peak begins with that of the parent.
    """
    status = Path("/proc/self/status")
    text = status.read_text() if status.exists() else ""
    return int(text.split("VmHWM:")[1].split()[0]) / 2 ** 20 if "VmHWM:" in text else 0.0


def keep_freed_memory() -> None:
    """Let glibc reuse freed blocks of up to 1 GB: otherwise every step gives its activations back
    to the system and pays for fresh, zeroed pages, a tenth of its time. Elsewhere: nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(-3, 1 << 30)                          # M_MMAP_THRESHOLD
        mallopt(-1, (1 << 31) - 1)                    # M_TRIM_THRESHOLD
