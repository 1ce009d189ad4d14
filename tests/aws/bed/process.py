"""Processes and ports of this machine."""
import ctypes, signal, socket


def free_port():
    """A port of the loopback interface that nothing listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def die_with_parent():
    """For preexec_fn. The kernel binds it to the spawning THREAD: spawn from the main thread only."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
