//! One connection to a peer, for as long as it lasts: what it says goes to the functions, and what they have
//! to say goes to it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, time::timeout_at};

use super::{
    event::Event,
    note::{Frame, Note, Word},
    owner::MemberId,
    wire::{Connection, Reader, WireError, Writer},
};
use crate::{
    function::{Outbox, Process},
    index::Index,
    probe,
};

/// The longest pause between two frames: proof of life, and of loads that change slowly.
pub const BEAT: Duration = Duration::from_millis(250);
/// The first pause before a claim that the owner has not answered is made again: it may not know yet that it
/// is the owner. Doubles up to [`BEAT`].
const CLAIM_AGAIN: Duration = Duration::from_millis(20);
/// Functions in one frame, so that no frame comes near the longest that may be.
const NOTES: usize = 256;

/// What a connection works with.
#[derive(Clone, Debug)]
pub(super) struct Desk {
    pub(super) index: Arc<Index>,
    pub(super) process: Arc<Process>,
    pub(super) events: mpsc::UnboundedSender<Event>,
}

/// Serves a connection until it ends, and says why it did.
pub(super) async fn serve(connection: Connection, session: u64, desk: &Desk) -> WireError {
    let Connection { peer, reader, writer } = connection;
    let outbox = Outbox::default();
    desk.report(Event::Connected { peer: peer.clone(), session, outbox: outbox.clone() });
    let error = tokio::select! {
        error = listen(reader, &peer, session, desk) => error,
        error = speak(writer, &peer, &outbox, desk) => error,
    };
    outbox.close();
    desk.report(Event::Closed { peer, session });
    error
}

impl Desk {
    pub(super) fn report(&self, event: Event) {
        // The receiver is gone only while the process ends.
        let _ = self.events.send(event);
    }
}

async fn listen(mut reader: Reader, peer: &MemberId, session: u64, desk: &Desk) -> WireError {
    let mut reported: Option<(Instant, bool)> = None;
    loop {
        let Frame { leaving, notes } = match reader.read().await {
            Ok(frame) => frame,
            Err(error) => return error,
        };
        let now = Instant::now();
        // Under load there are thousands of frames a second; whether the peer lives is asked less often.
        let fresh = |(at, was): (Instant, bool)| was == leaving && now.duration_since(at) < BEAT / 4;
        if !reported.is_some_and(fresh) {
            reported = Some((now, leaving));
            desk.report(Event::Heard { peer: peer.clone(), session, leaving });
        }
        for note in notes {
            let Some(function) = desk.index.function(&note.function()) else { continue };
            for pod in function.hear(peer, note.word, now) {
                probe::set_aside(&function, &pod);
            }
        }
    }
}

async fn speak(mut writer: Writer, peer: &MemberId, outbox: &Outbox, desk: &Desk) -> WireError {
    let (mut next_beat, mut again) = (Instant::now(), CLAIM_AGAIN);
    loop {
        let beat = timeout_at(next_beat.into(), outbox.woken()).await.is_err();
        if outbox.closed() {
            return WireError::Ended;
        }
        let now = Instant::now();
        let notes: Vec<Note> = outbox
            .take(beat)
            .iter()
            .filter_map(|function| Some(note(&function.key, function.tell(peer, beat, now)?)))
            .collect();
        let claims = notes.iter().any(|note| matches!(&note.word, Word::Up(up) if up.holds.is_some()));
        let mut notes = notes.into_iter().peekable();
        let mut due = beat;
        while due || notes.peek().is_some() {
            due = false;
            let frame =
                Frame { leaving: desk.process.leaving(), notes: notes.by_ref().take(NOTES).collect() };
            if let Err(error) = writer.write(&frame).await {
                return error;
            }
        }
        if beat {
            next_beat = now + BEAT;
            again = if claims { (again * 2).min(BEAT) } else { CLAIM_AGAIN };
        }
        if claims {
            next_beat = next_beat.min(now + again);
        }
    }
}

fn note(function: &pilotlight_crds::FunctionKey, word: Word) -> Note {
    Note { namespace: function.namespace.clone(), name: function.name.clone(), word }
}
