//! Several watches of one kind, each of one namespace, as the one watch that the stores know.

use std::collections::{HashMap, HashSet};

use futures::{Stream, StreamExt, stream};
use kube::{Resource, ResourceExt, api::ObjectMeta, runtime::watcher::Event};

use super::watch::Refused;

/// Makes one list of several. One that begins anew would empty the stores of what the other watches have brought, so only the
/// first list passes as such, once every watch has its own; what a later one has changed is told object by object.
///
/// A namespace that may not be read is not waited for, or its end would be that of all the others, too, at the next restart. Where
/// none may be, it is the edge that lacks something: it waits, and does not serve an empty table.
struct Merger<K> {
    parts: Vec<Part<K>>,
    /// Whether the first list has passed.
    listed: bool,
    /// Makes of a name what stands for an object that is gone.
    gone: fn(ObjectMeta) -> K,
}

/// What the watch of one namespace has brought.
struct Part<K> {
    namespace: String,
    /// The names that have passed.
    known: HashSet<String>,
    /// The objects of a list that has not passed yet.
    listing: HashMap<String, K>,
    /// Whether that list is complete.
    complete: bool,
    /// Whether it was refused; what comes later is told as that of any later list.
    refused: bool,
}

/// The events of all these namespaces' watches, each of which may begin its list anew at any time, or be refused. `gone` makes an
/// object of the metadata of one that a list does not have any more.
pub(super) fn merge<K: Resource + Send + 'static>(
    watches: impl Iterator<Item = (String, impl Stream<Item = Result<Event<K>, Refused>> + Send + 'static)>,
    gone: fn(ObjectMeta) -> K,
) -> impl Stream<Item = Event<K>> + Send + 'static {
    let (namespaces, watches): (Vec<String>, Vec<_>) = watches.unzip();
    let mut merger = Merger::new(namespaces, gone);
    let numbered = watches.into_iter().enumerate().map(|(part, watch)| watch.map(move |event| (part, event)).boxed());
    stream::select_all(numbered).flat_map(move |(part, event)| stream::iter(merger.take(part, event)))
}

// === impl Merger ===

impl<K: Resource> Merger<K> {
    fn new(namespaces: Vec<String>, gone: fn(ObjectMeta) -> K) -> Self {
        Self { parts: namespaces.into_iter().map(Part::new).collect(), listed: false, gone }
    }

    /// What an event of one watch means for all of them.
    fn take(&mut self, part: usize, event: Result<Event<K>, Refused>) -> Vec<Event<K>> {
        let Some(changed) = self.parts.get_mut(part) else { return Vec::new() };
        match event {
            Ok(event) if self.listed => return changed.pass(event, self.gone),
            Ok(event) => changed.keep(event),
            // Its last known objects stay in force.
            Err(Refused) if self.listed => return Vec::new(),
            Err(Refused) => changed.refuse(),
        }
        let (known, awaited) = (|part: &Part<K>| part.complete, |part: &Part<K>| !part.complete && !part.refused);
        if self.parts.iter().any(awaited) || !self.parts.iter().any(known) {
            return Vec::new();
        }
        self.listed = true;
        // A list that a refused one has begun meanwhile goes on, and is told when it is complete.
        let objects: Vec<K> = self.parts.iter_mut().filter(|part| part.complete).flat_map(Part::release).collect();
        let list = objects.into_iter().map(Event::InitApply);
        [Event::Init].into_iter().chain(list).chain([Event::InitDone]).collect()
    }
}

// === impl Part ===

impl<K: Resource> Part<K> {
    fn new(namespace: String) -> Self {
        Self { namespace, known: HashSet::new(), listing: HashMap::new(), complete: false, refused: false }
    }

    /// Before the first list has passed: keeps what comes until the other watches have theirs, too.
    fn keep(&mut self, event: Event<K>) {
        match event {
            Event::Init => {
                self.listing.clear();
                self.complete = false;
            }
            Event::InitApply(object) | Event::Apply(object) => {
                self.listing.insert(object.name_any(), object);
            }
            Event::InitDone => self.complete = true,
            Event::Delete(object) => {
                self.listing.remove(&object.name_any());
            }
        }
    }

    /// Before the first list has passed: there is nothing to wait for.
    fn refuse(&mut self) {
        self.listing.clear();
        self.complete = false;
        self.refused = true;
    }

    /// The objects of the complete list; from now on they are known.
    fn release(&mut self) -> Vec<K> {
        self.known = self.listing.keys().cloned().collect();
        std::mem::take(&mut self.listing).into_values().collect()
    }

    /// After the first list has passed: what an event means for those who do not know of parts.
    fn pass(&mut self, event: Event<K>, gone: fn(ObjectMeta) -> K) -> Vec<Event<K>> {
        match event {
            Event::Init => {
                self.listing.clear();
                Vec::new()
            }
            Event::InitApply(object) => {
                self.listing.insert(object.name_any(), object);
                Vec::new()
            }
            Event::InitDone => {
                let before = std::mem::take(&mut self.known);
                let listed = self.release();
                let left = before.into_iter().filter(|name| !self.known.contains(name)).map(|name| {
                    let namespace = Some(self.namespace.clone());
                    Event::Delete(gone(ObjectMeta { name: Some(name), namespace, ..ObjectMeta::default() }))
                });
                left.chain(listed.into_iter().map(Event::Apply)).collect()
            }
            Event::Apply(object) => {
                self.known.insert(object.name_any());
                vec![Event::Apply(object)]
            }
            Event::Delete(object) => {
                self.known.remove(&object.name_any());
                vec![Event::Delete(object)]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Secret;
    use kube::{api::PartialObjectMeta, core::PartialObjectMetaExt};

    use super::*;

    type Object = PartialObjectMeta<Secret>;

    fn object(name: &str) -> Object {
        let (namespace, name) = name.split_once('/').expect("namespace/name");
        let metadata =
            ObjectMeta { name: Some(name.to_owned()), namespace: Some(namespace.to_owned()), ..ObjectMeta::default() };
        metadata.into_response_partial()
    }

    fn merger() -> Merger<Object> {
        Merger::new(vec!["a".to_owned(), "b".to_owned()], ObjectMeta::into_response_partial)
    }

    /// The events in words; objects of one list in order, since they have none.
    fn words(events: Vec<Event<Object>>) -> Vec<String> {
        let name = |object: Object| format!("{}/{}", object.namespace().expect("a namespace"), object.name_any());
        let mut words: Vec<String> = events
            .into_iter()
            .map(|event| match event {
                Event::Init => "init".to_owned(),
                Event::InitApply(object) => format!("listed {}", name(object)),
                Event::InitDone => "~done".to_owned(),
                Event::Apply(object) => format!("apply {}", name(object)),
                Event::Delete(object) => format!("delete {}", name(object)),
            })
            .collect();
        words.sort();
        words
    }

    /// A watch lists these; what that means for all.
    fn list(merger: &mut Merger<Object>, part: usize, names: &[&str]) -> Vec<String> {
        let applied = names.iter().map(|name| Event::InitApply(object(name)));
        let events = [Event::Init].into_iter().chain(applied).chain([Event::InitDone]);
        words(events.flat_map(|event| merger.take(part, Ok(event))).collect())
    }

    #[test]
    fn the_first_list_passes_once_every_watch_has_its_own() {
        let mut merger = merger();
        assert!(list(&mut merger, 0, &["a/1", "a/2", "a/3"]).is_empty());
        // What changes meanwhile is in it; so is a list that had to begin anew.
        assert!(merger.take(0, Ok(Event::Delete(object("a/2")))).is_empty());
        assert!(merger.take(0, Ok(Event::Apply(object("a/4")))).is_empty());
        assert!(merger.take(1, Ok(Event::Init)).is_empty());
        assert!(merger.take(1, Ok(Event::InitApply(object("b/lost")))).is_empty());
        assert_eq!(
            list(&mut merger, 1, &["b/1"]),
            ["init", "listed a/1", "listed a/3", "listed a/4", "listed b/1", "~done"]
        );
    }

    #[test]
    fn a_watch_that_fails_in_its_first_list_is_waited_for() {
        let mut merger = merger();
        assert!(list(&mut merger, 1, &["b/1"]).is_empty());
        // Its list begins anew before the other has come.
        assert!(merger.take(1, Ok(Event::Init)).is_empty());
        assert!(list(&mut merger, 0, &[]).is_empty());
        assert_eq!(words(merger.take(1, Ok(Event::InitDone))), ["init", "~done"]);
    }

    #[test]
    fn a_namespace_that_refuses_is_not_waited_for() {
        let mut merger = merger();
        assert!(merger.take(1, Err(Refused)).is_empty());
        assert_eq!(list(&mut merger, 0, &["a/1"]), ["init", "listed a/1", "~done"]);
        assert!(merger.take(1, Err(Refused)).is_empty());
        assert_eq!(list(&mut merger, 1, &["b/1"]), ["apply b/1"]);
        // It is known now: refused later, its objects stay.
        assert!(merger.take(1, Err(Refused)).is_empty());
        assert_eq!(list(&mut merger, 1, &["b/2"]), ["apply b/2", "delete b/1"]);
    }

    #[test]
    fn a_list_that_was_refused_before_may_be_under_way_when_the_others_are_complete() {
        let mut merger = merger();
        assert!(merger.take(1, Err(Refused)).is_empty());
        assert!(merger.take(1, Ok(Event::Init)).is_empty());
        assert!(merger.take(1, Ok(Event::InitApply(object("b/1")))).is_empty());
        assert_eq!(list(&mut merger, 0, &["a/1"]), ["init", "listed a/1", "~done"], "half a list is none");
        assert!(merger.take(1, Ok(Event::InitApply(object("b/2")))).is_empty());
        assert_eq!(words(merger.take(1, Ok(Event::InitDone))), ["apply b/1", "apply b/2"]);
    }

    #[test]
    fn where_all_refuse_nothing_passes_until_one_does_not() {
        let mut merger = merger();
        assert!(merger.take(0, Err(Refused)).is_empty());
        assert!(merger.take(1, Err(Refused)).is_empty());
        assert_eq!(list(&mut merger, 1, &["b/1"]), ["init", "listed b/1", "~done"]);
        assert_eq!(list(&mut merger, 0, &["a/1"]), ["apply a/1"]);
    }

    #[test]
    fn a_later_list_changes_its_own_namespace_alone() {
        let mut merger = merger();
        list(&mut merger, 0, &["a/1", "a/2"]);
        list(&mut merger, 1, &["b/1"]);
        assert_eq!(words(merger.take(0, Ok(Event::Apply(object("a/3"))))), ["apply a/3"]);
        assert_eq!(words(merger.take(1, Ok(Event::Delete(object("b/1"))))), ["delete b/1"]);
        assert_eq!(list(&mut merger, 0, &["a/2", "a/4"]), ["apply a/2", "apply a/4", "delete a/1", "delete a/3"]);
        assert!(list(&mut merger, 1, &[]).is_empty(), "what was deleted is not deleted again");
        assert_eq!(list(&mut merger, 0, &["a/4"]), ["apply a/4", "delete a/2"]);
    }
}
