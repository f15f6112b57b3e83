"""Everything that a user may meet as an error."""


class InputError(ValueError):
    """What was given, what is needed, what to do, in one line.

    The command line prints it without a traceback and exits with status 2.
    """


class TrainingStopped(RuntimeError):
    """Training cannot go on: a loss or gradient that is not finite, or a single prompt that does not fit in memory.

    The command line prints it without a traceback and exits with status 1.
    """
