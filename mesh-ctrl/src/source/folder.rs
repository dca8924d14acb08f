//! What a set of files says, and what changes when one of them does. No file system and no clock in here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use super::{Code, Event, Finding, Severity};
use crate::object::{Object, ObjectKey, Read, read};
use crate::yaml::{self, Limits, Node};

/// What was found at a path.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Bytes(Vec<u8>),
    /// It is there and cannot be read; what it said before stays in force.
    Unreadable(String),
    Gone,
}

/// All files, each with its last good content.
#[derive(Debug, Default)]
pub(super) struct Folder {
    limits: Limits,
    files: BTreeMap<PathBuf, File>,
    /// Which files hold an object; the first by path is in force.
    holders: HashMap<ObjectKey, BTreeSet<PathBuf>>,
    duplicates: BTreeSet<ObjectKey>,
    /// Trouble with the folder itself.
    pub(super) trouble: Vec<Finding>,
    reported: Vec<Finding>,
}

#[derive(Debug, Default)]
struct File {
    objects: BTreeMap<ObjectKey, Held>,
    findings: Vec<Finding>,
}

#[derive(Clone, Debug)]
struct Held {
    line: u32,
    object: Object,
}

impl Folder {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Whether all that the file says could be read.
    pub(super) fn is_whole(&self, path: &Path) -> bool {
        self.files.get(path).is_some_and(|file| file.findings.iter().all(|f| f.severity != Severity::Error))
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.files.keys()
    }

    /// Takes what was found at some paths; returns what differs, findings last.
    pub(super) fn update(&mut self, found: &[(PathBuf, Content)]) -> Vec<Event> {
        // In force before, by key: compared with what is in force after the whole batch, so that an object which moved
        // from one file to another is no change.
        let mut before: BTreeMap<ObjectKey, Option<Object>> = BTreeMap::new();
        for (path, content) in found {
            let old = self.files.remove(path);
            for key in old.iter().flat_map(|file| file.objects.keys()) {
                if !before.contains_key(key) {
                    let object = self.in_force_with(key, path, old.as_ref());
                    before.insert(key.clone(), object);
                }
            }
            let new = match content {
                Content::Gone => None,
                Content::Unreadable(message) => {
                    let mut file = old.unwrap_or_default();
                    file.findings = vec![finding(Severity::Error, Code::Unreadable, path, None, message.clone())];
                    self.hold(path, file, &mut before);
                    continue;
                }
                Content::Bytes(bytes) => Some(self.parse(path, bytes, old.as_ref())),
            };
            for key in old.iter().flat_map(|file| file.objects.keys()) {
                self.release(key, path);
            }
            if let Some(file) = new {
                self.hold(path, file, &mut before);
            }
        }
        let mut events = Vec::new();
        for (key, before) in before {
            match (before, self.in_force(&key)) {
                (Some(before), Some(now)) if before == *now => {}
                (_, Some(now)) => events.push(Event::Apply(now.clone())),
                (Some(_), None) => events.push(Event::Delete(key)),
                (None, None) => {}
            }
        }
        let findings = self.findings();
        if findings != self.reported {
            self.reported.clone_from(&findings);
            events.push(Event::Findings(findings.into()));
        }
        events
    }

    fn hold(&mut self, path: &Path, file: File, before: &mut BTreeMap<ObjectKey, Option<Object>>) {
        for key in file.objects.keys() {
            if !before.contains_key(key) {
                before.insert(key.clone(), self.in_force(key).cloned());
            }
            let holders = self.holders.entry(key.clone()).or_default();
            holders.insert(path.to_owned());
            if holders.len() > 1 {
                self.duplicates.insert(key.clone());
            }
        }
        self.files.insert(path.to_owned(), file);
    }

    fn release(&mut self, key: &ObjectKey, path: &Path) {
        let Some(holders) = self.holders.get_mut(key) else { return };
        holders.remove(path);
        if holders.len() < 2 {
            self.duplicates.remove(key);
        }
        if holders.is_empty() {
            self.holders.remove(key);
        }
    }

    fn in_force(&self, key: &ObjectKey) -> Option<&Object> {
        let path = self.holders.get(key)?.first()?;
        Some(&self.files.get(path)?.objects.get(key)?.object)
    }

    /// As [`Self::in_force`] while `path`'s file is taken out.
    fn in_force_with(&self, key: &ObjectKey, path: &Path, file: Option<&File>) -> Option<Object> {
        let first = self.holders.get(key)?.first()?;
        let file = if first == path { file? } else { self.files.get(first)? };
        Some(file.objects.get(key)?.object.clone())
    }

    fn parse(&self, path: &Path, bytes: &[u8], old: Option<&File>) -> File {
        let keep = |line, message| File {
            objects: old.map(|file| file.objects.clone()).unwrap_or_default(),
            findings: vec![finding(Severity::Error, Code::Syntax, path, Some(line), message)],
        };
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
            Err(error) => {
                let line = 1 + bytes[..error.valid_up_to()].iter().filter(|b| **b == b'\n').count();
                return keep(u32::try_from(line).unwrap_or(u32::MAX), "not UTF-8".to_owned());
            }
        };
        let documents = match yaml::documents(text, &self.limits) {
            Ok(documents) => documents,
            Err(mistake) => return keep(mistake.line, mistake.message),
        };
        let mut reader = Reader { path, old, file: File::default(), skipped: BTreeMap::new(), unidentified: false };
        for document in documents {
            reader.document(&document.root, document.mistake.as_ref(), None);
        }
        reader.finish()
    }

    fn findings(&self) -> Vec<Finding> {
        let mut findings = self.trouble.clone();
        findings.extend(self.files.values().flat_map(|file| file.findings.iter().cloned()));
        for key in &self.duplicates {
            let mut holders = self.holders.get(key).into_iter().flatten();
            let Some(first) = holders.next() else { continue };
            for other in holders {
                let line = self.files.get(other).and_then(|file| file.objects.get(key)).map(|held| held.line);
                let message = format!("stands in {} too, which is the one in force", first.display());
                let mut finding = finding(Severity::Warning, Code::Duplicate, other, line, message);
                finding.object = Some(key.clone());
                findings.push(finding);
            }
        }
        findings.sort();
        findings
    }
}

/// Reads the documents of one file.
struct Reader<'a> {
    path: &'a Path,
    old: Option<&'a File>,
    file: File,
    /// Kinds passed over, with how many and the first one's line.
    skipped: BTreeMap<(String, String), (usize, u32)>,
    /// A document was refused that does not say which object it is.
    unidentified: bool,
}

impl Reader<'_> {
    /// `of` is the type of a typed list (PodList), whose items need not repeat it.
    fn document(&mut self, node: &Node, mistake: Option<&yaml::Mistake>, of: Option<(&str, &str)>) {
        let text = |field| node.get(field).and_then(Node::text);
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        if let (Some(api_version), Some(kind), Some(items)) =
            (api_version, kind, node.get("items").and_then(Node::items))
            && let Some(item_kind) = kind.strip_suffix("List")
            && of.is_none()
        {
            for item in items {
                self.document(item, mistake, Some((api_version, item_kind)));
            }
            return;
        }
        let mut value = node.value();
        if let (Some((api_version, kind)), serde_json::Value::Object(map)) = (of, &mut value)
            && !kind.is_empty()
            && !map.contains_key("kind")
        {
            map.insert("kind".to_owned(), kind.into());
            map.entry("apiVersion").or_insert_with(|| api_version.into());
        }
        match (read(value), mistake) {
            (Read::Object(object), Some(mistake)) => {
                let key = object.key();
                self.refuse(Some(key), node.line, mistake.line, None, mistake.message.clone());
            }
            (Read::Object(object), None) => self.accept(node.line, object),
            (Read::Skipped { api_version, kind, .. }, _) => {
                self.skipped.entry((api_version, kind)).or_insert((0, node.line)).0 += 1;
            }
            (Read::Refused(refused), _) => {
                let line = node.line_of(&refused.field);
                let field = (!refused.field.is_empty()).then_some(refused.field);
                self.refuse(refused.key, node.line, line, field, refused.message);
            }
        }
    }

    fn accept(&mut self, line: u32, object: Object) {
        let key = object.key();
        if let Some(first) = self.file.objects.get(&key) {
            let message = format!("stands on line {} too, which is the one in force", first.line);
            self.report(Severity::Warning, Code::Duplicate, line, Some(key), None, message);
            return;
        }
        self.file.objects.insert(key, Held { line, object });
    }

    fn refuse(&mut self, key: Option<ObjectKey>, begin: u32, line: u32, field: Option<String>, message: String) {
        self.unidentified |= key.is_none();
        if let Some(key) = &key
            && let Some(held) = self.old.and_then(|file| file.objects.get(key))
            && !self.file.objects.contains_key(key)
        {
            self.file.objects.insert(key.clone(), Held { line: begin, object: held.object.clone() });
        }
        self.report(Severity::Error, Code::Refused, line, key, field, message);
    }

    fn report(
        &mut self,
        severity: Severity,
        code: Code,
        line: u32,
        object: Option<ObjectKey>,
        field: Option<String>,
        message: String,
    ) {
        let finding = finding(severity, code, self.path, Some(line), message);
        self.file.findings.push(Finding { object, field, ..finding });
    }

    fn finish(mut self) -> File {
        if let Some(old) = self.old.filter(|_| self.unidentified) {
            // It may be any of those that the file held before and does not now: a slip in a name takes nothing away.
            for (key, held) in &old.objects {
                self.file.objects.entry(key.clone()).or_insert_with(|| held.clone());
            }
        }
        for ((api_version, kind), (count, line)) in std::mem::take(&mut self.skipped) {
            // Rules about requests that are passed over are more than a curiosity.
            let severity = match api_version.starts_with("security.istio.io/") {
                true => Severity::Warning,
                false => Severity::Info,
            };
            let message = match count {
                1 => format!("{api_version} {kind} is not read"),
                _ => format!("{count} of {api_version} {kind} are not read"),
            };
            self.report(severity, Code::Skipped, line, None, None, message);
        }
        self.file
    }
}

fn finding(severity: Severity, code: Code, path: &Path, line: Option<u32>, message: String) -> Finding {
    Finding { severity, code, object: None, file: Some(path.to_owned()), line, field: None, message }
}

/// Whether a file of this name is read.
pub(super) fn is_manifest(path: &Path) -> bool {
    let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    let extension = path.extension().and_then(|e| e.to_str());
    !hidden && matches!(extension, Some("yaml" | "yml" | "json"))
}

#[cfg(test)]
mod tests;
