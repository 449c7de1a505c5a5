//! What is sound arrives as it was sent: random requests, cut at random, many to a connection.

use futures_util::future::join_all;
use pilotlight_crds::FunctionSpec;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    Bed,
    bed::PATIENCE,
    raw::{HELLO, RawPod, Seen, statuses},
};

const CONNECTIONS: u64 = 20;
const REQUESTS: u64 = 25;

/// Numbers that look random and are the same in every run (xorshift, Marsaglia 2003).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as usize % sides
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.roll(from.len())]
    }

    fn text(&mut self, alphabet: &str, longest: usize) -> String {
        let alphabet: Vec<_> = alphabet.chars().collect();
        (0..self.roll(longest + 1)).map(|_| alphabet[self.roll(alphabet.len())]).collect()
    }
}

/// A request on the wire, and as the pod ought to see it.
fn request(dice: &mut Dice, name: &str) -> (Vec<u8>, Seen) {
    let method = dice.pick(&["GET", "POST", "PUT", "DELETE", "PATCH", "PURGE"]);
    let target = format!(
        "/{name}/{}?{}",
        dice.text("ab-_~!$&'()*+,;=:@/\"{}|^\\", 20),
        dice.text("ab%=&/?.`<", 10).replace('<', "")
    );
    let body = dice.text("ab\r\n0;: ", 5_000).into_bytes();
    let mut fields = vec![("x-name".to_owned(), name.to_owned())];
    for number in 0..dice.roll(8) {
        let value = dice.text("ab ;,=\"\t\u{e9}:", 60);
        fields.push((format!("x{}-{number}", dice.text("abc.!#$%&'*+^`|~", 5)), value.trim().to_owned()));
    }
    let mut head =
        format!("{method} {target} HTTP/1.1\r\nhOsT:{}hello.demo\r\n", dice.pick(&["", " ", "\t "]));
    for (name, value) in &fields {
        head += &format!("{name}:{}{value}{}\r\n", dice.pick(&["", " ", " \t"]), dice.pick(&["", " ", "\t"]));
    }
    let chunked = dice.roll(2) == 0;
    let framed = if chunked { in_chunks(dice, &body) } else { body.clone() };
    head += &if chunked {
        "Transfer-Encoding: chunked\r\n\r\n".into()
    } else {
        format!("Content-Length: {}\r\n\r\n", body.len())
    };
    let mut wire: Vec<u8> = head.chars().map(|c| u8::try_from(c).unwrap()).collect();
    wire.extend(framed);
    (wire, Seen { method: method.into(), target, fields, body })
}

fn in_chunks(dice: &mut Dice, mut body: &[u8]) -> Vec<u8> {
    let mut framed = Vec::new();
    while !body.is_empty() {
        let (chunk, rest) = body.split_at((1 + dice.roll(1_000)).min(body.len()));
        let extension = dice.pick(&["", ";a", ";a=\"b c\"", " ; a=b"]);
        framed.extend(format!("{}{:X}{extension}\r\n", dice.pick(&["", "00"]), chunk.len()).into_bytes());
        framed.extend([chunk, b"\r\n"].concat());
        body = rest;
    }
    framed.extend(b"0\r\n\r\n");
    framed
}

/// Sends requests one behind the other without waiting for answers.
async fn send(bed: &Bed, number: u64) -> Vec<Seen> {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ (number + 1));
    let (wires, expected): (Vec<_>, Vec<_>) =
        (0..REQUESTS).map(|request_number| request(&mut dice, &format!("{number}-{request_number}"))).unzip();
    let wire = wires.concat();
    let (mut reader, mut writer) = TcpStream::connect(bed.addr).await.unwrap().into_split();
    let write = async {
        let mut rest = &wire[..];
        while !rest.is_empty() {
            let (piece, after) = rest.split_at((1 + dice.roll(3_000)).min(rest.len()));
            // Who is refused can read why.
            if writer.write_all(piece).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
            rest = after;
        }
    };
    let read = async {
        let (mut answers, mut buffer) = (String::new(), [0; 4096]);
        while statuses(&answers).len() < REQUESTS as usize || !answers.ends_with("hello") {
            let count = reader.read(&mut buffer).await.unwrap();
            assert!(
                count > 0,
                "closed after {answers}: {:?}",
                String::from_utf8_lossy(&wires[statuses(&answers).len() - 1])
            );
            answers += &String::from_utf8_lossy(&buffer[..count]);
        }
        assert!(statuses(&answers).iter().all(|status| *status == 200), "{answers}");
    };
    tokio::time::timeout(PATIENCE, async { tokio::join!(write, read) }).await.unwrap();
    expected
}

#[tokio::test]
async fn sound_requests_arrive_as_they_were_sent() {
    let bed = Bed::new(FunctionSpec::from_image("x")).await;
    let pod = RawPod::answering("a", HELLO, false).await;
    bed.see(&pod.pod);
    bed.until("the pod answers", |report| report.ready == 1).await;
    let expected: Vec<_> = join_all((0..CONNECTIONS).map(|number| send(&bed, number))).await.concat();
    let log = pod.log();
    assert_eq!((&log.malformed[..], &log.pieces[..], log.requests.len()), (&[][..], &[][..], expected.len()));
    for wanted in expected {
        let name = wanted.field("x-name").unwrap();
        let mut seen = log.requests.iter().find(|seen| seen.field("x-name") == Some(name)).unwrap().clone();
        // What the activator and the framing of the body add is not the client's.
        seen.fields.retain(|(name, _)| wanted.fields.iter().any(|(sent, _)| sent == name));
        assert_eq!(seen, wanted);
    }
}
