"""Between the package and what is compiled: arguments in, results and what was said out."""

import json
import logging
import os
import warnings
from typing import Any, Callable, List, Sequence, Tuple, Union

from ._native import UsageError

Path = Union[str, "os.PathLike[str]"]
Paths = Union[Path, Sequence[Path]]

logger = logging.getLogger("hydra_lora")


def call(function: Callable[..., Tuple[str, List[Tuple[bool, str]]]], *arguments: Any, stacklevel: int = 3) -> Any:
    """What the function computes. Its notes go to the logger `hydra_lora`, its warnings to Python's."""
    text, said = function(*arguments)
    for must_be_seen, line in said:
        if must_be_seen:
            warnings.warn(line, stacklevel=stacklevel)
        else:
            logger.info(line)
    return json.loads(text)


def paths(given: Paths) -> List[Path]:
    """One path or several, as a list."""
    return [given] if isinstance(given, (str, os.PathLike)) else list(given)


def texts(name: str, given: Union[str, Sequence[str]]) -> List[str]:
    """One expression or several, as a list."""
    found = [given] if isinstance(given, str) else list(given)
    if not all(isinstance(text, str) for text in found):
        raise UsageError(f"{name} is a list of regular expressions as texts")
    return found
