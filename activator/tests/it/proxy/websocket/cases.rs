//! What a WebSocket server answers to good and to bad frames, with and without the activator in the middle:
//! byte for byte the same. The cases are those of the Autobahn test suite, by its sections; `cargo xtask
//! test` runs those files themselves.

use std::net::SocketAddr;

use futures_util::{StreamExt, stream};
use pilotlight_crds::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    client::{AnySocket, open_http1, open_http2},
    echo, serving, spec,
};
use crate::proxy::bed::PATIENCE;

/// Cases under way at once.
const AT_ONCE: usize = 8;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
/// The last frame of a message.
const FIN: u8 = 0x80;

/// Frames that a client sends, and in pieces of how many bytes.
struct Case {
    name: String,
    sent: Vec<u8>,
    piece: usize,
}

/// A masked frame.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let key = [0x37, 0xfa, 0x21, 0x3d];
    let length = match payload.len() {
        short @ 0..=125 => vec![0x80 | short as u8],
        long @ 126..=0xffff => [&[0x80 | 126], &(long as u16).to_be_bytes()[..]].concat(),
        longer => [&[0x80 | 127], &(longer as u64).to_be_bytes()[..]].concat(),
    };
    let masked: Vec<u8> = payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
    [&[first][..], &length, &key, &masked].concat()
}

/// A close frame, after which the server has the last word.
fn close(code: u16) -> Vec<u8> {
    frame(FIN | CLOSE, &code.to_be_bytes())
}

fn case(name: impl Into<String>, frames: &[Vec<u8>]) -> Case {
    let sent = [frames.concat(), close(1000)].concat();
    Case { name: name.into(), sent, piece: usize::MAX }
}

/// Sections 1, 9 and 10: messages of all sizes, also byte by byte.
fn messages() -> Vec<Case> {
    let sizes = [0, 1, 125, 126, 127, 128, 65_535, 65_536, 1 << 20];
    let mut cases = Vec::new();
    for kind in [TEXT, BINARY] {
        for size in sizes {
            cases.push(case(format!("{size} bytes of kind {kind}"), &[frame(FIN | kind, &vec![b'*'; size])]));
        }
        for piece in [1, 997] {
            let whole = case(format!("in pieces of {piece}"), &[frame(FIN | kind, &vec![b'*'; 1_000])]);
            cases.push(Case { piece, ..whole });
        }
    }
    cases
}

/// Section 2: pings and pongs.
fn pings() -> Vec<Case> {
    let ping = |payload: &[u8]| frame(FIN | PING, payload);
    vec![
        case("an empty ping", &[ping(b"")]),
        case("a ping of binary", &[ping(&[0, 255, 254, 253])]),
        case("the longest ping", &[ping(&[0xfe; 125])]),
        case("a ping that is too long", &[ping(&[0xfe; 126])]),
        Case { piece: 1, ..case("a ping byte by byte", &[ping(&[0xfe; 125])]) },
        case("a pong unasked", &[frame(FIN | PONG, b"unsolicited"), ping(b"ping")]),
        case("ten pings", &(0..10).map(|n| ping(format!("ping {n}").as_bytes())).collect::<Vec<_>>()),
    ]
}

/// Sections 3 and 4: reserved bits and opcodes, behind a good message.
fn reserved() -> Vec<Case> {
    let good = || frame(FIN | TEXT, b"good");
    let bits = (1..8)
        .map(|bits| case(format!("reserved bits {bits}"), &[good(), frame(FIN | bits << 4 | TEXT, b"bad")]));
    let kinds = (3..8).chain(11..16);
    let opcodes = kinds.map(|kind| case(format!("opcode {kind}"), &[good(), frame(FIN | kind, b"bad")]));
    bits.chain(opcodes).collect()
}

/// Section 5: fragments.
fn fragments() -> Vec<Case> {
    let (first, more, last) =
        (frame(TEXT, b"first "), frame(CONTINUATION, b"more "), frame(FIN | CONTINUATION, b"last"));
    let (ping, text) = (frame(FIN | PING, b"ping"), frame(FIN | TEXT, b"whole"));
    vec![
        case("a ping in two", &[frame(PING, b"half"), last.clone()]),
        case("a text in two", &[first.clone(), last.clone()]),
        Case {
            piece: 1,
            ..case("a text in three, byte by byte", &[first.clone(), more.clone(), last.clone()])
        },
        case("pings between", &[first.clone(), ping.clone(), more.clone(), ping, last.clone()]),
        case("a continuation of nothing", &[last.clone(), text.clone()]),
        case("an unfinished continuation of nothing", &[more, last]),
        case("a text within a text", &[first, text]),
        case(
            "many",
            &[
                vec![frame(BINARY, b"0")],
                vec![frame(CONTINUATION, b"1"); 1_000],
                vec![frame(FIN | CONTINUATION, b"2")],
            ]
            .concat(),
        ),
    ]
}

/// Section 6: text that is UTF-8, and text that is not.
fn encodings() -> Vec<Case> {
    let greek = "κόσμε-µ@ßöäüàá-UTF-8!! 𐍈".as_bytes();
    let bad: [&[u8]; 6] =
        [b"\xce\xba\xed\xa0\x80edited", b"\xf4\x90\x80\x80", b"\xc0\xaf", b"\xff", b"\xe2\x28\xa1", b"\xce"];
    let mut cases: Vec<_> =
        bad.iter().map(|bad| case(format!("not UTF-8: {bad:?}"), &[frame(FIN | TEXT, bad)])).collect();
    cases.push(case("UTF-8", &[frame(FIN | TEXT, greek)]));
    cases.push(case(
        "UTF-8 cut within letters",
        &[
            frame(TEXT, &greek[..1]),
            frame(CONTINUATION, &greek[1..4]),
            frame(FIN | CONTINUATION, &greek[4..]),
        ],
    ));
    cases.push(case(
        "bad in the second fragment",
        &[frame(TEXT, greek), frame(FIN | CONTINUATION, b"\xed\xa0\x80")],
    ));
    cases
}

/// Section 7: ways to close.
fn closings() -> Vec<Case> {
    let codes =
        [1000, 1001, 1003, 1007, 1011, 3000, 4999, 0, 999, 1004, 1005, 1006, 1016, 2999, 5000, 65_535];
    let mut cases: Vec<_> =
        codes.into_iter().map(|code| case(format!("code {code}"), &[close(code)])).collect();
    let with = |reason: &[u8]| frame(FIN | CLOSE, &[&1000_u16.to_be_bytes()[..], reason].concat());
    cases.extend([
        case("nothing but the end", &[]),
        case("no code", &[frame(FIN | CLOSE, b"")]),
        case("half a code", &[frame(FIN | CLOSE, b"\x03")]),
        case("a reason", &[with(b"so it is")]),
        case("the longest reason", &[with(&[b'*'; 123])]),
        case("a reason that is too long", &[with(&[b'*'; 124])]),
        case("a reason that is not UTF-8", &[with(b"\xce\xba\xed\xa0\x80")]),
        case("a message behind the close", &[close(1000), frame(FIN | TEXT, b"late")]),
        case("a close within a message", &[frame(TEXT, b"first"), close(1000)]),
    ]);
    cases
}

/// All that the server says, from the first byte to the last. Whether it ends by a reset depends on which
/// side closes first, so it is not compared.
async fn transcript(mut socket: AnySocket, case: &Case) -> Vec<u8> {
    let (mut reader, mut writer) = tokio::io::split(&mut socket);
    let sending = async {
        for piece in case.sent.chunks(case.piece) {
            // A server that has seen enough does not read the rest.
            if writer.write_all(piece).await.is_err() || writer.flush().await.is_err() {
                break;
            }
        }
    };
    let reading = async {
        let mut all = Vec::new();
        let _ = reader.read_to_end(&mut all).await;
        all
    };
    let both = async { tokio::join!(sending, reading).1 };
    tokio::time::timeout(PATIENCE, both).await.unwrap_or_else(|_| panic!("{}: no end", case.name))
}

async fn compare(case: &Case, protocol: Protocol, pod: SocketAddr, activator: SocketAddr) {
    let directly = async {
        let socket = match protocol {
            Protocol::Http1 => open_http1(pod).await,
            Protocol::H2c => open_http2(pod).await,
        };
        transcript(socket, case).await
    };
    let over_http1 = async { transcript(open_http1(activator).await, case).await };
    let over_http2 = async { transcript(open_http2(activator).await, case).await };
    let (expected, one, two) = tokio::join!(directly, over_http1, over_http2);
    assert!(one == expected, "{} over HTTP/1.1 to {protocol:?}: {one:?}, not {expected:?}", case.name);
    assert!(two == expected, "{} over HTTP/2 to {protocol:?}: {two:?}, not {expected:?}", case.name);
}

#[tokio::test]
async fn with_and_without_the_activator_servers_say_the_same() {
    let cases: Vec<_> = [messages(), pings(), reserved(), fragments(), encodings(), closings()]
        .into_iter()
        .flatten()
        .collect();
    for protocol in [Protocol::Http1, Protocol::H2c] {
        let (bed, pod) = serving(spec(protocol), echo).await;
        let direct = SocketAddr::from(([127, 0, 0, 1], pod.observed.port.unwrap()));
        let compare = |case| compare(case, protocol, direct, bed.addr);
        stream::iter(&cases).for_each_concurrent(AT_ONCE, compare).await;
        bed.until("the slots are back", |report| report.in_flight == 0).await;
    }
}
