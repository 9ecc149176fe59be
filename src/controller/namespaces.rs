use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::Namespace;
use kube::{api::PartialObjectMeta, runtime::watcher::Event};

use super::stores::Effect;

/// The labels of one namespace.
type Labels = BTreeMap<String, String>;

/// The labels of all namespaces, by which a TunnelAgent may say who can route to it. Nothing else of them is kept.
pub(super) struct Namespaces {
    known: HashMap<String, Labels>,
    in_listing: HashMap<String, Labels>,
    listed: bool,
    /// Whether they come at all.
    watched: bool,
}

// === impl Namespaces ===

impl Namespaces {
    pub(super) fn new(watched: bool) -> Self {
        Self { known: HashMap::new(), in_listing: HashMap::new(), listed: !watched, watched }
    }

    /// Whether all is known of them that ever will be.
    pub(super) fn listed(&self) -> bool {
        self.listed
    }

    /// Whether nothing of them ever comes.
    pub(super) fn unread(&self) -> bool {
        !self.watched
    }

    pub(super) fn state(&self) -> HashMap<String, Labels> {
        self.known.clone()
    }

    /// Takes in what has become of them. Only a change of labels means something.
    pub(super) fn apply(&mut self, event: Event<PartialObjectMeta<Namespace>>) -> Effect {
        let entry = |object: PartialObjectMeta<Namespace>| {
            (object.metadata.name.unwrap_or_default(), object.metadata.labels.unwrap_or_default())
        };
        let changed = match event {
            Event::Init => {
                self.in_listing.clear();
                false
            }
            Event::InitApply(object) => {
                let (name, labels) = entry(object);
                self.in_listing.insert(name, labels);
                false
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.in_listing);
                let changed = !self.listed || listed != self.known;
                (self.known, self.listed) = (listed, true);
                changed
            }
            Event::Apply(object) => {
                let (name, labels) = entry(object);
                let same = self.known.get(&name) == Some(&labels);
                self.known.insert(name, labels);
                !same
            }
            Event::Delete(object) => self.known.remove(&entry(object).0).is_some(),
        };
        if changed { Effect::Table } else { Effect::None }
    }
}

#[cfg(test)]
mod tests {
    use kube::core::{ObjectMeta, PartialObjectMetaExt};

    use super::*;

    fn namespace(name: &str, team: &str) -> PartialObjectMeta<Namespace> {
        let labels = BTreeMap::from([("team".to_owned(), team.to_owned())]);
        ObjectMeta { name: Some(name.to_owned()), labels: Some(labels), ..ObjectMeta::default() }
            .into_response_partial()
    }

    #[test]
    fn only_another_set_of_labels_has_an_effect() {
        let mut namespaces = Namespaces::new(true);
        let mut list = |objects: Vec<PartialObjectMeta<Namespace>>| {
            namespaces.apply(Event::Init);
            for object in objects {
                assert_eq!(namespaces.apply(Event::InitApply(object)), Effect::None);
            }
            namespaces.apply(Event::InitDone)
        };
        assert_eq!(list(vec![]), Effect::Table, "the table waits for it");
        assert_eq!(list(vec![namespace("web", "a")]), Effect::Table);
        assert_eq!(list(vec![namespace("web", "a")]), Effect::None);
        assert_eq!(namespaces.apply(Event::Apply(namespace("web", "a"))), Effect::None);
        assert_eq!(namespaces.apply(Event::Apply(namespace("web", "b"))), Effect::Table);
        assert_eq!(namespaces.state()["web"]["team"], "b");
        assert_eq!(namespaces.apply(Event::Delete(namespace("web", "b"))), Effect::Table);
        assert_eq!(namespaces.apply(Event::Delete(namespace("web", "b"))), Effect::None);
    }
}
