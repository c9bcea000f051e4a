"""Command lines of measurements: a few options of their own, a config file, and settings passed on to train.py."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from oracle.cli import UsageError

GIVEN = "yes"  # an option written without a value


@dataclass(frozen=True)
class Options:
    own: dict[str, str]
    place: str  # the config file
    settings: list[str]  # `--name=value`, for `oracle.config.load`

    def number(self, name: str) -> int:
        """An own option as a whole number from 0 on; raises UsageError for anything else."""
        try:
            value = int(self.own[name])
        except ValueError:
            value = -1
        if value < 0:
            raise UsageError(f"--{name}={self.own[name]}: must be a whole number, 0 or more; write --{name}=3")
        return value


def read(argv: Sequence[str], own: Mapping[str, str], place: str = "config/demo.py") -> Options:
    """Split `argv` into the options named in `own` (with their defaults), one config file and train.py's settings."""
    values, places, settings = dict(own), [], []
    for word in argv:
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            places.append(word)
        elif name in own:
            values[name] = value if equals else GIVEN
        else:
            settings.append(word)
    if len(places) > 1:
        raise UsageError(f"{len(places)} files given ({', '.join(places)}): name one config file")
    return Options(values, places[0] if places else place, settings)
