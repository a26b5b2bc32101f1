"""Runs code that a model wrote, and says whether tests ran to their end with it.

    tests_pass(["def add(a, b): return a + b"], "assert add(1, 2) == 3", seconds=10, megabytes=1024)

This keeps accidents away. It is no jail: use a container for models that you do not trust.

What is kept away. The code runs in an isolated Python of its own, in an empty folder that is
deleted, without output, input or environment, with limits on time, memory, size of a file, and
without new processes or threads. Root's limits would not bind, so root's code runs as the user
nobody. The tests pass only if they ran to their end: the code learns neither them nor the token
that the process has to return after them, for each is handed over when the one before it has run.

What is not. Answer and tests share a process. Code that is written to cheat can find the channel
and speak its protocol, or trace and replace what the tests use; a class whose __eq__ is always true
passes `==`. It can read what its user can read, fill the disk with many files, use the network,
and, unless it is root's, kill that user's other processes.
"""
import json
import os
import secrets
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import suppress
from pathlib import Path

from utils.cli import UserError

NOBODY, START = 65534, 60          # root's code runs as this user; seconds in which Python starts
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}     # else numpy fails to load

# The program of the child. What it uses after the answer's code is bound before it. In Linux a user
# other than root needs the capability to read (number 2) where Python is in root's home folder.
DRIVER = f"""
import ctypes, json, os, resource, signal, sys, types

def leave_root():
    libc = ctypes.CDLL(None)
    libc.prctl(8, 1, 0, 0, 0)                            # keep capabilities for a moment
    try:
        os.setgroups([])
        os.setresgid(*3 * [{NOBODY}])
        os.setresuid(*3 * [{NOBODY}])
    except OSError:
        return                                           # root of a container: limits bind it
    for kept in (4, 0):                                  # reading, or nothing
        sets = (ctypes.c_uint32 * 6)(kept, kept)
        if libc.capset((ctypes.c_uint32 * 2)(0x20080522, 0), sets) == 0:
            break
    open(os.__file__).close()

def main(compile=compile, exec=exec, loads=json.loads, write=os.write):
    fd, seconds, memory = map(int, sys.argv[1:])
    if os.getuid() == 0:
        leave_root()
    for name, limit in (("CPU", seconds), ("AS", memory), ("FSIZE", 1 << 20), ("NPROC", 0),
                        ("CORE", 0)):
        resource.setrlimit(getattr(resource, "RLIMIT_" + name), (limit, limit))
    signal.alarm(3 * seconds)                            # should nobody be there to end it
    readline = open(fd, "rb", closefd=False).readline

    def ask():
        write(fd, b"?")
        return loads(readline())

    sys.argv = ["answer"]
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    for program in ask():
        try:
            code = compile(program, "answer", "exec")
            break
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            pass
    exec(code, vars(module))
    exec(compile(ask(), "tests", "exec"), vars(module))
    write(fd, ask().encode())

main()
"""


def tests_pass(programs: list[str], tests: str, seconds: int, megabytes: int) -> bool:
    """Whether the tests run to their end after the first of `programs` that is Python.

    UserError where Python does not even start.
    """
    if os.name != "posix":
        raise UserError("--run-code needs Linux or macOS: its limits are the system's")

    # An empty folder in one that only we may change, and a channel.
    outer = Path(tempfile.mkdtemp())
    ours, theirs = socket.socketpair()
    try:
        (folder := outer / "empty").mkdir()
        if os.getuid() == 0:
            with suppress(OSError):
                os.chown(folder, NOBODY, NOBODY)
        child = subprocess.Popen(
            [sys.executable, "-I", "-c", DRIVER, *map(str, (theirs.fileno(), seconds,
                                                           megabytes << 20))],
            cwd=folder, env=ONE_THREAD, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True)
        theirs.close()

        # Hand over one after the other; whatever goes wrong with it is no pass.
        try:
            ours.settimeout(START)
            if not asked(ours):
                raise UserError(f"{sys.executable} does not start within --run-code's limits "
                                f"({megabytes} MB, no other process); as root it must be readable "
                                "for other users: try as an ordinary user")
            return hand_over(ours, programs, tests, time.monotonic() + 2 * seconds)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)     # and what it may have started
            child.wait()
    finally:
        ours.close()
        theirs.close()
        remove_tree(outer)


def asked(channel: socket.socket) -> bool:
    try:
        return channel.recv(1) == b"?"
    except OSError:                                      # it died, or the time is over
        return False


def hand_over(channel: socket.socket, programs: list[str], tests: str, end: float) -> bool:
    """Give what is asked for: the programs, when they have run the tests, then a token; whether
    that comes back before the time `end`."""
    token = secrets.token_hex(16)
    try:
        for part in (programs, tests, token):
            channel.sendall(json.dumps(part).encode() + b"\n")
            channel.settimeout(max(0.01, end - time.monotonic()))
            if part is not token and not asked(channel):
                return False
        return channel.recv(len(token), socket.MSG_WAITALL) == token.encode()
    except OSError:
        return False


def remove_tree(folder: Path) -> None:
    """Delete a folder, nested deeper than a path may be long or with rights taken away, too: what a
    folder in it holds is moved to the top before that folder goes."""
    prefix, n = secrets.token_hex(8), 0
    try:
        while names := os.listdir(folder):
            for name in names:
                path = folder / name
                if not stat.S_ISDIR(path.lstat().st_mode):
                    path.unlink()
                    continue
                path.chmod(0o700)
                for inner in os.listdir(path):
                    if stat.S_ISDIR((path / inner).lstat().st_mode):
                        (path / inner).chmod(0o700)      # a folder that moves must be writable
                    (path / inner).rename(folder / f"{prefix}{n}")
                    n += 1
                path.rmdir()
        folder.rmdir()
    except OSError as error:
        warnings.warn(f"{folder}, in which model-written code ran, could not be deleted: {error}")
