"""What CF models refuse: settings out of range, and a fit that diverged."""

from cbmr.errors import InputError


def above_zero(**settings: float) -> None:
    """InputError for the first setting that is not above 0."""
    for name, value in settings.items():
        if not value > 0:
            raise InputError(f"{name}={value}: expected a number above 0")


def at_least_zero(**settings: float) -> None:
    """InputError for the first setting that is below 0 or no number."""
    for name, value in settings.items():
        if not value >= 0:
            raise InputError(f"{name}={value}: expected a number of at least 0")


def diverged(learning_rate: float) -> InputError:
    """The error for factors that are not finite."""
    return InputError(
        f"learning_rate={learning_rate}: the factors grew beyond all numbers, expected a lower one"
    )
