"""The one exception that means: the user gave something they can fix."""


class InputError(ValueError):
    """What was given, what is needed, what to do, in one line.

    The command line prints it without a traceback and exits with status 2.
    """
