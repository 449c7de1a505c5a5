//! The targets by name. Each has a folder of seeds in `corpus/`.

use pilotlight_activator::fuzzing;

/// Takes any bytes, and panics if something does not hold.
pub(crate) type Target = fn(&[u8]);

/// All of them.
pub(crate) const TARGETS: [(&str, Target); 11] = [
    ("certificates", fuzzing::certificates),
    ("forwarding", fuzzing::forwarding),
    ("frames", fuzzing::frames),
    ("framing", fuzzing::framing),
    ("grpc", fuzzing::grpc),
    ("guard", fuzzing::guard),
    ("paths", fuzzing::paths),
    ("peers", fuzzing::peers),
    ("sessions", fuzzing::sessions),
    ("units", fuzzing::units),
    ("websocket", fuzzing::websocket),
];
