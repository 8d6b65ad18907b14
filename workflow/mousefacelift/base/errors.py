"""The one exception for a user's mistake: bad input, bad configuration, a damaged file."""


class UserError(Exception):
    """Says what was wrong, where (capture, camera, frame, file or key) and what to do. The command line prints it alone
    and exits with status 1; any other exception is a defect of the program and keeps its traceback.
    """

    status = 1
    shared = False  # raised alike by all processes of a training, of which one says it


class TerminatedError(UserError):
    """The program was asked to end by a signal, and did so in good order."""

    shared = True

    def __init__(self, text: str, signum: int):
        super().__init__(text)
        self.status = 128 + signum  # as a shell says it of a process that the signal ended
