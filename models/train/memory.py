"""Keeps freed memory inside the process: giving pages back after every step costs a third of the time."""
import ctypes


def keep():
    libc = ctypes.CDLL(None)
    for option, value in ((-3, 32 << 20), (-1, (1 << 31) - 1), (-8, 1)):   # mmap from, trim from, one arena
        libc.mallopt(option, value)
