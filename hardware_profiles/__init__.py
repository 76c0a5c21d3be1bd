"""The devices on which candidates are scored: one YAML file a device."""

from paretax.hardware_profiles.profile import (
    HardwareProfile,
    load_profile,
    parse_profile,
    profile_names,
)

__all__ = ["HardwareProfile", "load_profile", "parse_profile", "profile_names"]
