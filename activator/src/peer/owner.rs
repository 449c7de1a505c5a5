//! Who owns a function: the same answer on every activator that sees the same members, without a word
//! between them.
//!
//! Rendezvous hashing: each member has a weight for each function, and the heaviest owns it. A member that
//! comes or goes moves only the functions that it wins or had.

use std::{fmt, sync::Arc};

use pilotlight_crds::FunctionKey;
use serde::{Deserialize, Serialize};

/// An activator: the uid of its pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct MemberId(Arc<str>);

impl From<String> for MemberId {
    fn from(uid: String) -> Self {
        Self(uid.into())
    }
}

impl From<&str> for MemberId {
    fn from(uid: &str) -> Self {
        Self(uid.into())
    }
}

impl From<MemberId> for String {
    fn from(MemberId(uid): MemberId) -> Self {
        uid.as_ref().to_owned()
    }
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The owner of `function` among `members`; none if there are none.
pub fn owner<'a>(
    members: impl IntoIterator<Item = &'a MemberId>,
    function: &FunctionKey,
) -> Option<&'a MemberId> {
    members.into_iter().max_by_key(|member| (weight(member, function), *member))
}

/// FNV-1a over both names, then mixed (the finalizer of `SplitMix64`) so that every bit counts. Not the
/// standard library's hasher: activators of two versions must agree.
fn weight(member: &MemberId, function: &FunctionKey) -> u64 {
    let names = [member.0.as_bytes(), function.namespace.as_bytes(), function.name.as_bytes()];
    let bytes = names.into_iter().flat_map(|name| name.iter().copied().chain([0]));
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn members(count: usize) -> Vec<MemberId> {
        (0..count).map(|n| format!("5f2c7e0a-0000-4000-8000-{n:012}").into()).collect()
    }

    fn functions() -> impl Iterator<Item = FunctionKey> {
        (0..3_000).map(|n| FunctionKey::new("demo", format!("f{n}")))
    }

    #[test]
    fn each_member_owns_its_share() {
        let members = members(3);
        let mut owned = BTreeMap::<_, u32>::new();
        for function in functions() {
            *owned.entry(owner(&members, &function).unwrap()).or_default() += 1;
        }
        assert!(owned.len() == 3 && owned.values().all(|count| (900..1_100).contains(count)), "{owned:?}");
    }

    #[test]
    fn only_what_the_leaving_member_owned_moves() {
        let all = members(4);
        for function in functions() {
            let before = owner(&all, &function).unwrap();
            let after = owner(&all[1..], &function).unwrap();
            assert!(before == after || *before == all[0]);
        }
    }

    #[test]
    fn the_order_of_members_and_their_version_do_not_matter() {
        let mut all = members(5);
        let function = FunctionKey::new("demo", "hello");
        let expected = owner(&all, &function).unwrap().clone();
        all.reverse();
        assert_eq!(owner(&all, &function), Some(&expected));
        assert_eq!(weight(&"a".into(), &function), 11_576_551_717_454_141_324, "must never change");
        assert_eq!(owner([], &function), None);
    }
}
