"""The release of gradexplain, and the releases of torch that it was tested with."""

from gradexplain.locale.catalogue import say

__version__ = "0.1.0"

# By major and minor number; a patch of a tested release counts as tested.
OLDEST, NEWEST = (2, 8), (2, 15)


def version_line(language: str = "en") -> str:
    """Returns one line: the releases of gradexplain, torch and Python, and whether they were tested together.

    Torch is asked for its release without being imported.
    """
    import platform
    from importlib.metadata import PackageNotFoundError, version

    data = {"gradexplain": __version__, "python": platform.python_version()}
    try:
        torch = version("torch")
    except PackageNotFoundError:
        return say("versions.no_torch", language, **data)
    release = minor_release(torch)
    key = "older" if release < OLDEST else "newer" if release > NEWEST else "tested"
    oldest, newest = (_joined(bound) for bound in (OLDEST, NEWEST))
    return say(f"versions.{key}", language, **data, torch=torch, oldest=oldest, newest=newest)


def minor_release(text: str) -> tuple[int, int]:
    """Returns (2, 15) for `2.15.0+cpu` and for `2.15.0.dev20261101`."""
    major, minor = text.split(".")[:2]
    return int(major), int(minor)


def minor_text(text: str) -> str:
    """Returns `2.15` for `2.15.0+cpu`."""
    return _joined(minor_release(text))


def _joined(release: tuple[int, int]) -> str:
    return ".".join(map(str, release))
