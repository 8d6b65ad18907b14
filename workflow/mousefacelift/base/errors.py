"""The one exception for a user's mistake: bad input, bad configuration, a damaged file."""


class UserError(Exception):
    """Says what is wrong, where (capture, camera, frame, file or key) and what to do.

    The command line prints the message alone and exits with `status`. Any other exception is a defect of the program and
    keeps its traceback.
    """

    status = 1
    shared = False  # whether all processes of a training run raise it, so that one of them prints it


class TerminatedError(UserError):
    """A signal asked the program to end, and it saved what it had to save."""

    shared = True

    def __init__(self, text: str, signum: int):
        super().__init__(text)
        self.status = 128 + signum  # what a shell reports for a process that this signal ended
