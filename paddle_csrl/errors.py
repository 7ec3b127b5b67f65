"""The one exception type for mistakes a user can make and mend."""


class UserError(ValueError):
    """A mistake in a config, a file or a command-line value.

    The message is one line that names the value, where it stands and how to mend it; the
    command-line tools print it without a traceback and exit with status 2.
    """
