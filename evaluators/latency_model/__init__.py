"""How long a compiled program takes on a device: data sheets, corrected by calibration."""
