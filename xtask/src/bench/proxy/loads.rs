//! What is measured.

use clap::ValueEnum;
use serde_json::{Value, json};

use super::peers::Peer;

/// One kind of load. The names are those of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Load {
    /// HTTP/1.1, kept connections, 256 bytes
    Small,
    /// HTTP/1.1, kept connections, 16 KiB
    Medium,
    /// HTTP/1.1, 1000 connections, 256 bytes
    Many,
    /// HTTP/2 in front, 256 bytes
    Http2,
    /// Half of what HAProxy can do, at a fixed rate
    Half,
    /// Bodies of 100 MiB to the client
    Download,
    /// Bodies of 100 MiB from the client
    Upload,
    /// WebSocket messages
    Websocket,
    /// 1000 idle connections
    Idle,
}

/// What of an outcome is the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Figure {
    /// Exchanges per second, and CPU time of each
    Exchanges,
    /// Latency, and what the proxy adds to it
    Latency,
    /// Bytes per second, and CPU time of a mebibyte
    Bytes,
    /// Memory per connection
    Memory,
}

/// How hard and how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order {
    /// Rate of a load that has one.
    pub(super) per_second: f64,
    pub(super) seconds: f64,
}

/// The load that says what half of HAProxy's throughput is.
pub(super) const CALIBRATION: Load = Load::Small;

const CONNECTIONS: u32 = 64;
const MANY: u32 = 1000;
const SMALL: u64 = 256;
const MEDIUM: u64 = 16 * 1024;
const LARGE: u64 = 100 * 1024 * 1024;
/// Large bodies at once: enough that neither end ever waits.
const BODIES: u32 = 4;
/// HTTP/2 connections, and streams on each.
const FEW: u32 = 8;
const STREAMS: u32 = 8;
/// Length of a WebSocket message.
const MESSAGE: u64 = 64;

impl Load {
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Small => "HTTP/1.1, 64 connections, 256 B",
            Self::Medium => "HTTP/1.1, 64 connections, 16 KiB",
            Self::Many => "HTTP/1.1, 1,000 connections, 256 B",
            Self::Http2 => "HTTP/2 in front, 8 connections of 8 streams, 256 B",
            Self::Half => "Latency at half of HAProxy's throughput, 64 connections, 256 B",
            Self::Download => "Downloads of 100 MiB",
            Self::Upload => "Uploads of 100 MiB",
            Self::Websocket => "WebSocket, 64 connections, messages of 64 B echoed",
            Self::Idle => "Memory of 1,000 idle connections",
        }
    }

    /// As on the command line.
    pub(super) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    pub(super) fn figure(self) -> Figure {
        match self {
            Self::Small | Self::Medium | Self::Many | Self::Http2 | Self::Websocket => Figure::Exchanges,
            Self::Half => Figure::Latency,
            Self::Download | Self::Upload => Figure::Bytes,
            Self::Idle => Figure::Memory,
        }
    }

    /// How many windows of it there are in a round. Many short ones: what else the machine does spoils some of them, and
    /// not most. Latency has the most, for it is also in the slowest requests.
    pub(super) fn turns(self) -> u32 {
        match self.figure() {
            Figure::Exchanges | Figure::Bytes => 8,
            Figure::Latency => 12,
            Figure::Memory => 1,
        }
    }

    /// Length of a window, in seconds, where one that is alone in its round has `seconds`.
    pub(super) fn window(self, seconds: f64) -> f64 {
        if self.turns() > 1 { seconds / 4.0 } else { seconds }
    }

    /// Whether it can be put on a peer: the backend speaks no HTTP/2, and its memory is nobody's question; Envoy
    /// cannot take half of HAProxy's load, and what it leaves behind would slow whoever comes next.
    pub(super) fn fits(self, peer: Peer) -> bool {
        match peer {
            Peer::Direct => !matches!(self, Self::Http2 | Self::Idle),
            Peer::Envoy => self != Self::Half,
            _ => true,
        }
    }

    /// How the driver is told: see `Order` in its `drive.rs`.
    pub(super) fn order(self, order: Order) -> Value {
        let (connections, bytes, shape) = match self {
            Self::Small => (CONNECTIONS, SMALL, json!({ "shape": "closed" })),
            Self::Medium => (CONNECTIONS, MEDIUM, json!({ "shape": "closed" })),
            Self::Many => (MANY, SMALL, json!({ "shape": "closed" })),
            Self::Http2 => (FEW, SMALL, json!({ "shape": "http2", "streams": STREAMS })),
            Self::Half => (CONNECTIONS, SMALL, json!({ "shape": "open", "per_second": order.per_second })),
            Self::Download => (BODIES, LARGE, json!({ "shape": "bulk", "direction": "down" })),
            Self::Upload => (BODIES, LARGE, json!({ "shape": "bulk", "direction": "up" })),
            Self::Websocket => (CONNECTIONS, MESSAGE, json!({ "shape": "websocket" })),
            Self::Idle => (MANY, SMALL, json!({ "shape": "idle" })),
        };
        let mut line = shape;
        line["connections"] = connections.into();
        line["bytes"] = bytes.into();
        line["seconds"] = order.seconds.into();
        line
    }
}
