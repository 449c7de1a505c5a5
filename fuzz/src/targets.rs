//! The targets by name. Each has a folder of seeds in `corpus/`.

use pilotlight_activator::fuzzing;

/// Takes any bytes, and panics if something does not hold.
pub(crate) type Target = fn(&[u8]);

/// All of them.
pub(crate) const TARGETS: [(&str, Target); 7] = [
    ("forwarding", fuzzing::forwarding),
    ("frames", fuzzing::frames),
    ("framing", fuzzing::framing),
    ("guard", fuzzing::guard),
    ("paths", fuzzing::paths),
    ("sessions", fuzzing::sessions),
    ("units", fuzzing::units),
];
