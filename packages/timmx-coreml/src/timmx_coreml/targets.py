"""Deployment targets: the oldest systems that a file runs on. Cheap to import."""

from __future__ import annotations

from enum import StrEnum


class Target(StrEnum):
    """The oldest system that must run the file: an iOS release, or the macOS release of the same year.

    tvOS and iPadOS share iOS's numbers; watchOS 8 belongs to ios15, 9 to ios16, 10 to ios17, 11 to ios18.
    """

    IOS13 = "ios13"
    IOS14 = "ios14"
    IOS15 = "ios15"
    IOS16 = "ios16"
    IOS17 = "ios17"
    IOS18 = "ios18"
    IOS26 = "ios26"
    MACOS10_15 = "macos10.15"
    MACOS11 = "macos11"
    MACOS12 = "macos12"
    MACOS13 = "macos13"
    MACOS14 = "macos14"
    MACOS15 = "macos15"
    MACOS26 = "macos26"

    @property
    def ios(self) -> Target:
        """The iOS release of the same year."""
        return ios_of(self.specification)

    @property
    def specification(self) -> int:
        """The version of Core ML's file format of this release; later systems read earlier versions."""
        return _SPECIFICATIONS[self]

    def __str__(self) -> str:
        return self.value


_SPECIFICATIONS = {
    Target.IOS13: 4,
    Target.IOS14: 5,
    Target.IOS15: 6,
    Target.IOS16: 7,
    Target.IOS17: 8,
    Target.IOS18: 9,
    Target.IOS26: 10,
    Target.MACOS10_15: 4,
    Target.MACOS11: 5,
    Target.MACOS12: 6,
    Target.MACOS13: 7,
    Target.MACOS14: 8,
    Target.MACOS15: 9,
    Target.MACOS26: 10,
}
_IOS = {number: target for target, number in _SPECIFICATIONS.items() if target.value.startswith("ios")}


def ios_of(specification: int) -> Target:
    """Return the iOS release that introduced a version of the file format."""
    return _IOS[specification]


def systems_of(specification: int) -> str:
    """Return the systems that introduced a specification version, such as `iOS 16, macOS 13`."""
    names = [target.value for target, number in _SPECIFICATIONS.items() if number == specification]
    return ", ".join(name.replace("ios", "iOS ").replace("macos", "macOS ") for name in names) or "unknown"
