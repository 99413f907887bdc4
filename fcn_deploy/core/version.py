"""The version of this package, in the one place where it stands."""

VERSION = "1.0.0"
