//! Two ends on loopback, and somebody in between.

use tokio::net::TcpListener;

use super::*;
use crate::peer::note::{Note, Up, Word};

const SECRET: &str = "a secret that has enough characters";

fn keys(text: &str) -> Keys {
    Keys::parse(text).unwrap()
}

async fn streams() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dialled = TcpStream::connect(listener.local_addr().unwrap());
    let (dialled, accepted) = tokio::join!(dialled, listener.accept());
    (dialled.unwrap(), accepted.unwrap().0)
}

/// What both ends make of each other.
async fn meet(dialler: &str, other: &str) -> (Result<Connection, WireError>, Result<Connection, WireError>) {
    let (dialled, accepted) = streams().await;
    let (dialler, other) = (keys(dialler), keys(other));
    let (a, b) = ("a".into(), "b".into());
    tokio::join!(dial(dialled, &dialler, &a, &b), accept(accepted, &other, &b))
}

fn frame(name: &str) -> Frame {
    let note = Note { namespace: "demo".into(), name: name.into(), word: Word::Up(Box::<Up>::default()) };
    Frame { leaving: true, notes: vec![note] }
}

#[tokio::test]
async fn frames_go_both_ways() {
    let (a, b) = meet(SECRET, SECRET).await;
    let (mut a, mut b) = (a.unwrap(), b.unwrap());
    assert_eq!((a.peer.to_string(), b.peer.to_string()), ("b".into(), "a".into()));
    for name in ["one", "two"] {
        a.writer.write(&frame(name)).await.unwrap();
        b.writer.write(&frame(name)).await.unwrap();
        assert_eq!(b.reader.read().await.unwrap(), frame(name));
        assert_eq!(a.reader.read().await.unwrap(), frame(name));
    }
    drop(a);
    assert!(matches!(b.reader.read().await, Err(WireError::Io(_))));
}

#[tokio::test]
async fn another_secret_is_refused_and_a_new_one_is_not() {
    let (a, b) = meet(SECRET, "another secret of enough characters").await;
    assert!(matches!((a, b), (Err(WireError::OtherSecret), Err(WireError::OtherSecret))));
    let newer = format!("the newer secret that is long enough as well,{SECRET}");
    for (dialler, other) in [(SECRET, &*newer), (&newer, SECRET)] {
        let (a, b) = meet(dialler, other).await;
        assert!(a.is_ok() && b.is_ok(), "{a:?} {b:?}");
    }
}

#[tokio::test]
async fn who_only_says_that_he_has_the_secret_is_refused() {
    let (mut liar, accepted) = streams().await;
    let keys = keys(SECRET);
    let hello = serde_json::to_vec(&Hello::new(&"a".into(), &keys).unwrap()).unwrap();
    let empty = [&[0; SIGNATURE][..], b"{}"].concat();
    for said in [hello, empty] {
        liar.write_all(&[&(said.len() as u32).to_be_bytes()[..], &said].concat()).await.unwrap();
    }
    let refused = accept(accepted, &keys, &"b".into()).await;
    assert!(matches!(refused, Err(WireError::BadSignature)));
}

#[tokio::test]
async fn somebody_else_at_the_address_is_no_peer() {
    let (dialled, accepted) = streams().await;
    let keys = keys(SECRET);
    let (a, b, c) = ("a".into(), "b".into(), "c".into());
    let (dialled, _) = tokio::join!(dial(dialled, &keys, &a, &b), accept(accepted, &keys, &c));
    assert!(matches!(dialled, Err(WireError::SomebodyElse(who)) if who == c));
}

/// What a frame becomes whose bytes, as they were sent, are changed on the way.
async fn tampered(change: impl Fn(&[u8]) -> Vec<u8>) -> Result<Frame, WireError> {
    let (a, b) = meet(SECRET, SECRET).await;
    let (mut a, mut b) = (a.unwrap(), b.unwrap());
    let (left, right) = streams().await;
    let (straight, mut tap) = (std::mem::replace(&mut a.writer.stream, left.into_split().1), right);
    a.writer.write(&frame("hello")).await.unwrap();
    let mut length = [0; 4];
    tap.read_exact(&mut length).await.unwrap();
    let mut body = vec![0; u32::from_be_bytes(length) as usize];
    tap.read_exact(&mut body).await.unwrap();
    let mut straight = straight;
    straight.write_all(&change(&[&length[..], &body].concat())).await.unwrap();
    let first = b.reader.read().await?;
    assert_eq!(first, frame("hello"));
    b.reader.read().await
}

#[tokio::test]
async fn what_is_changed_or_replayed_on_the_way_is_refused() {
    let flipped = tampered(|sent| {
        let mut sent = sent.to_vec();
        *sent.last_mut().unwrap() ^= 1;
        sent
    });
    assert!(matches!(flipped.await, Err(WireError::BadSignature)));
    assert!(matches!(tampered(|sent| sent.repeat(2)).await, Err(WireError::BadSignature)));
    let long = tampered(|_| u32::MAX.to_be_bytes().to_vec()).await;
    assert!(matches!(long, Err(WireError::TooLong(_))));
    assert!(matches!(tampered(|_| vec![0, 0, 0, 3, 1, 2, 3]).await, Err(WireError::BadSignature)));
}

#[tokio::test]
async fn a_stranger_is_told_nothing_but_a_hello() {
    let refusals = [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "too-long"),
        (b"\0\0\0\x02{}", "malformed"),
        (
            br#"....{"version":2,"id":"x","nonce":[1,2,3,4,5,6,7,8,9,0,1,2,3,4,5,6],"fingerprints":[]}"#,
            "other-version",
        ),
    ];
    for (said, reason) in refusals {
        let mut said = said.to_vec();
        if said.starts_with(b"....") {
            let length = (said.len() - 4) as u32;
            said[..4].copy_from_slice(&length.to_be_bytes());
        }
        let (mut stranger, accepted) = streams().await;
        stranger.write_all(&said).await.unwrap();
        let refused = accept(accepted, &keys(SECRET), &"b".into()).await.unwrap_err();
        assert_eq!(refused.refused(), Some(reason), "{refused}");
    }
}
