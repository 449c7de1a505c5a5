//! What activators tell each other, as it stands in a frame. Unknown fields are ignored and missing ones
//! are empty, so that two versions understand each other during a rollout.

use std::collections::{BTreeMap, BTreeSet};

use pilotlight_crds::{ColdStart, FunctionKey};
use serde::{Deserialize, Serialize};

/// Slots by the uid of their pod.
pub type ByPod = BTreeMap<String, u32>;

/// One message: proof of life, and what there is to say.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Frame {
    /// Whether the sender is about to end.
    pub leaving: bool,
    /// Of functions.
    pub notes: Vec<Note>,
}

/// What one activator tells another of one function.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Note {
    /// Namespace of the function.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// To its owner, or from it.
    pub word: Word,
}

impl Note {
    /// The function.
    pub fn function(&self) -> FunctionKey {
        FunctionKey::new(&self.namespace, &self.name)
    }
}

/// To an owner, or from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Word {
    /// To the owner.
    Up(Box<Up>),
    /// From the owner.
    Down(Down),
}

/// What the owner is told. All but `returned` and `arrivals` is the state of the moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Up {
    /// Number of the claim that all of this refers to.
    pub claim: u64,
    /// Leases that the sender holds: the first word to an owner, repeated until it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holds: Option<ByPod>,
    /// Its load.
    pub load: Load,
    /// How long its oldest held request has waited, in milliseconds.
    pub waited: u64,
    /// Leases that it was given since the claim.
    pub got: u64,
    /// Leases that it gives back.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub returned: ByPod,
    /// Pods that it cannot reach.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub unreachable: BTreeSet<String>,
    /// The last cold start that ended at the sender, if the owner has not heard of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cold_start: Option<ColdStart>,
    /// Answer to [`Down::going`]: if there are any, all pods in which the sender has requests in flight, so that
    /// the owner can choose others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub busy: Option<Going>,
}

/// Load of one function in one activator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Load {
    /// Requests in flight to pods.
    pub in_flight: u32,
    /// Requests held.
    pub held: u32,
    /// Requests that have arrived since the last word.
    pub arrivals: u32,
}

/// What the owner tells.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Down {
    /// Number of the claim that this answers: of another one it is worth nothing.
    pub claim: u64,
    /// Whether the owner does not know what the hearer holds: it may have been another's lessee meanwhile.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub asks: bool,
    /// Leases given.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub granted: ByPod,
    /// How many leases others wait for: idle ones go back at once, busy ones as they end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recall: Option<u32>,
    /// Pods that get no new requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub going: Option<Going>,
}

/// Pods that get no new requests; as an answer, pods that have some.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Going {
    /// Counts the owner's lists: an answer to an older one is none.
    pub version: u64,
    /// Uids of pods.
    pub pods: BTreeSet<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_short_and_what_another_version_says_is_understood() {
        let up = Up { claim: 3, load: Load { in_flight: 1, ..Load::default() }, ..Up::default() };
        let note = Note { namespace: "demo".into(), name: "hello".into(), word: Word::Up(Box::new(up)) };
        let text = serde_json::to_string(&note).unwrap();
        assert_eq!(
            text,
            r#"{"namespace":"demo","name":"hello","word":{"up":{"claim":3,"load":{"in_flight":1,"held":0,"arrivals":0},"waited":0,"got":0}}}"#
        );
        let newer = text.replace("\"got\":0", "\"new\":[1]");
        assert_eq!(serde_json::from_str::<Note>(&newer).unwrap(), note);
        assert_eq!(serde_json::from_str::<Frame>("{}").unwrap(), Frame::default());
    }
}
