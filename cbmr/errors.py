"""The one exception that means: the person at the keyboard can mend this."""


class InputError(ValueError):
    """Something that came from outside is not what it has to be.

    The message says what was expected, what came, where, and the likely mistake. Tasks print it on
    one line and end with status 1; every other exception is a defect of cbmr and keeps its
    traceback.
    """
