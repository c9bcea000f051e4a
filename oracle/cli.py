"""How every script ends: one sentence for a user's mistake, a traceback only for ours."""

import errno
import io
import sys
from collections.abc import Callable, Sequence


class UserError(ValueError):
    """Something a user can mend. The message says what was given, what is allowed and what to do."""

    exit_code = 1


class UsageError(UserError):
    """The command line or the config file is wrong; nothing has been read or written yet."""

    exit_code = 2


def run(main: Callable[[Sequence[str]], None]) -> int:
    """Call `main` with the command line's arguments and return the exit status.

    0: done. 1: a `UserError` or an I/O failure such as a full disk. 2: a `UsageError`. 130: interrupted.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a console of another alphabet shows escapes, and nothing is lost
            stream.reconfigure(errors="backslashreplace")
    try:
        main(sys.argv[1:])
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # `sample.py … | head`: the reader has seen enough
        sys.stderr.close()
        return 0
    except OSError as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    return 0


def explain(error: OSError) -> str:
    """One sentence for an operating-system error, with the file it is about."""
    where = f"{error.filename}: " if error.filename else ""
    what = f"{where}{error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{what}; what was finished before is whole: free some space and run the same command again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{what}; give this user the permission or choose another folder"
    return what
