//! What must hold after every step, and what once nothing is under way any longer.

use std::time::Instant;

use super::world::{News, Trouble, World};

impl World {
    pub(super) fn check(&self, when: &str) {
        if self.trouble == Trouble::Links {
            return;
        }
        for pod in &self.doomed {
            let used = self.used(pod);
            assert!(used.iter().sum::<u32>() == 0, "{when}: {used:?} in flight in {pod}, which goes");
        }
        for pod in self.pods.iter().filter(|_| self.highest > 0) {
            let (used, limit) = (self.used(pod), self.highest);
            assert!(used.iter().sum::<u32>() <= limit, "{when}: {used:?} in flight in {pod}, {limit}");
        }
        let shares = self.activators.iter().map(|activator| activator.function.share());
        let unlimited = self.limit == 0 && self.trouble == Trouble::None;
        assert!(!unlimited || shares.map(|share| share.leased + share.lent).sum::<u32>() == 0, "{when}");
    }

    /// Every message arrives, what is repeated with time is, and all hear each other.
    pub(super) async fn settle(&mut self, when: &str) {
        for round in 0..200 {
            self.hear_again();
            for at in 0..self.activators.len() {
                self.send(at, round % 4 == 3);
            }
            while self.deliver(0) {}
            self.let_run().await;
            for at in 0..self.activators.len() {
                self.autoscale(at, when);
            }
            self.check(&format!("{when}, while it comes to rest"));
        }
        let restless = self.activators.iter_mut().find_map(|one| one.is_poked().then_some(&one.id));
        assert_eq!(restless, None, "{when}: looked at again although nothing has changed");
    }

    fn hear_again(&mut self) {
        let silent: Vec<_> = self
            .activators
            .iter()
            .flat_map(|one| one.seats.iter().map(|(other, seat)| (one.id.clone(), other.clone(), seat.live)))
            .filter(|(.., live)| !live)
            .collect();
        for (whom, of, _) in silent {
            self.tell(&whom, &of, News::Heard(of.clone(), true));
        }
    }

    pub(super) fn check_at_rest(&self, when: &str) {
        let waiting: usize = self.activators.iter().map(|activator| activator.waiting.len()).sum();
        let used = |pod: &String| self.used(pod).iter().sum::<u32>();
        if self.pods.len() > self.wanted {
            for pod in &self.pods {
                let pods = self.pods.iter().map(|pod| (pod, self.used(pod))).collect::<Vec<_>>();
                assert!(used(pod) > 0, "{when}: {pod} is idle and does not go, {} of {pods:?}", self.wanted);
            }
        } else if waiting > 0 {
            for pod in &self.pods {
                let full = self.limit > 0 && used(pod) >= self.limit;
                assert!(full, "{when}: {waiting} wait, and {pod} has free slots: {:?}", self.used(pod));
            }
        }
        let owners = self.activators.iter().filter(|activator| activator.function.share().owner.is_none());
        assert_eq!(owners.count(), 1, "{when}");
    }

    pub(super) async fn end(&mut self, when: &str) {
        for activator in &mut self.activators {
            activator.waiting.drain(..).for_each(|request| request.abort());
        }
        self.let_run().await;
        self.activators.iter().for_each(|activator| activator.in_flight.borrow_mut().clear());
        self.settle(when).await;
        self.activators.iter().for_each(|activator| activator.function.overdue(Instant::now()));
        self.settle(when).await;
        self.check_at_rest(when);
        let (mut lent, mut leased) = (0, 0);
        for activator in &self.activators {
            let (report, share) = (activator.function.report(), activator.function.share());
            assert_eq!((report.in_flight, report.held), (0, 0), "{when}");
            (lent, leased) = (lent + share.lent, leased + share.leased);
        }
        assert_eq!(lent, leased, "{when}: both sides know the same");
    }
}
