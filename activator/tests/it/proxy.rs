//! The path of a request against real sockets: an activator without a cluster, and pods that are HTTP
//! servers of this process.

mod aborts;
mod bed;
mod conformance;
mod drain;
mod elsewhere;
mod expect;
mod fairness;
mod faithful;
mod floods;
mod flow;
mod frames;
mod grpc;
mod guard;
mod half_close;
mod holding;
mod http2;
mod interim;
mod kinds;
mod peers;
mod pooled;
mod raw;
mod remains;
mod responses;
mod shortage;
mod silence;
mod slowness;
mod smuggling;
mod streaming;
mod strictness;
mod telling;
mod tls;
mod websocket;

use bed::Bed;
