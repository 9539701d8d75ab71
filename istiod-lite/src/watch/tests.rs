use std::fs;
use std::path::Path;

use expect_test::{Expect, expect};
use tempfile::TempDir;

use super::*;
use files::Files;

fn namespace(name: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n---\n")
}

/// Looks until two looks in a row have nothing to tell; what was told, with `/tmp/...` cut off.
fn told(files: &mut Files, folder: &Path) -> String {
    let mut said = String::new();
    let mut quiet = 0;
    while quiet < 3 {
        let Some(batch) = files.look() else {
            quiet += 1;
            continue;
        };
        quiet = 0;
        for event in &batch.events {
            said += &match event {
                Event::Applied(object) => format!("applied {}\n", object.key()),
                Event::Deleted(key) => format!("deleted {key}\n"),
            };
        }
        for (key, origin) in &batch.origins {
            said += &format!("{key} at {}\n", origin.as_ref().map_or("nowhere".into(), Origin::to_string));
        }
        said.extend(batch.findings.lines().into_iter().map(|line| line + "\n"));
        said += if batch.is_whole { "whole\n" } else { "not whole\n" };
    }
    said.replace(&format!("{}/", folder.display()), "")
}

struct Case {
    folder: TempDir,
    files: Files,
}

impl Case {
    fn new() -> Case {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::new(vec![folder.path().to_owned()]);
        Case { folder, files }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).unwrap();
    }

    fn told(&mut self, expected: Expect) {
        expected.assert_eq(&told(&mut self.files, self.folder.path()));
    }
}

#[test]
fn objects_come_change_and_go_with_their_file() {
    let mut case = Case::new();
    case.told(expect![[r#"
        whole
    "#]]);
    case.write("a.yaml", &[namespace("a"), namespace("b")].concat());
    case.told(expect![[r#"
        applied Namespace a
        applied Namespace b
        Namespace a at a.yaml:1
        Namespace b at a.yaml:5
        whole
    "#]]);
    case.write("a.yaml", &["# moved by a line\n".into(), namespace("b"), namespace("c")].concat());
    case.told(expect![[r#"
        deleted Namespace a
        applied Namespace c
        Namespace a at nowhere
        Namespace b at a.yaml:2
        Namespace c at a.yaml:6
        whole
    "#]]);
    fs::remove_file(case.folder.path().join("a.yaml")).unwrap();
    case.told(expect![[r#"
        deleted Namespace b
        deleted Namespace c
        Namespace b at nowhere
        Namespace c at nowhere
        whole
    "#]]);
}

#[test]
fn only_the_changed_object_of_a_long_file_is_an_event() {
    let mut case = Case::new();
    let all = |changed: &str| (0..1000).map(|index| namespace(&format!("n{index}"))).collect::<String>().replace("name: n500}", &format!("name: n500{changed}}}"));
    case.write("a.yaml", &all(""));
    assert_eq!(told(&mut case.files, case.folder.path()).matches("applied").count(), 1000);
    case.write("a.yaml", &all(", labels: {x: y}"));
    case.told(expect![[r#"
        applied Namespace n500
        Namespace n500 at a.yaml:2001
        whole
    "#]]);
}

// a broken file is reported with file, line and field, and all its last good state stays
#[test]
fn a_broken_file_keeps_its_last_good_state() {
    let mut case = Case::new();
    case.write("a.yaml", &[namespace("a"), namespace("b")].concat());
    told(&mut case.files, case.folder.path());
    case.write("a.yaml", &[namespace("a"), namespace("Bad")].concat());
    case.told(expect![[r#"
        a.yaml: line 5, field metadata.name: "Bad" is not a Kubernetes name: up to 253 of a-z, 0-9, '-' and '.', beginning and ending with a letter or digit; the last good state of the file stays
        whole
    "#]]);
    case.write("a.yaml", &[namespace("a"), "metadata: [\n".into()].concat());
    case.told(expect![[r#"
        a.yaml: line 5, field metadata: unclosed bracket '['; the last good state of the file stays
        whole
    "#]]);
    case.write("a.yaml", &namespace("a"));
    case.told(expect![[r#"
        deleted Namespace b
        Namespace b at nowhere
        whole
    "#]]);
}

// a policy could be in the file that cannot be read, so the mesh is not told a part of the folder at start
#[test]
fn nothing_is_whole_until_every_file_was_read_once() {
    let mut case = Case::new();
    case.write("bad.yaml", "apiVersion: v1\nkind: Namespace\nmetadata:\n  labels: 5\n");
    case.write("good.yaml", &namespace("a"));
    case.told(expect![[r#"
        not whole
        applied Namespace a
        Namespace a at good.yaml:1
        bad.yaml: line 4, field metadata.labels: expected a mapping, key: value; the last good state of the file stays
        not whole
    "#]]);
    case.write("bad.yaml", &namespace("b"));
    case.told(expect![[r#"
        applied Namespace b
        Namespace b at bad.yaml:1
        whole
    "#]]);
    case.write("bad.yaml", "oops");
    case.told(expect![[r#"
        bad.yaml: line 1: expected a mapping, key: value; the last good state of the file stays
        whole
    "#]]);
}

#[test]
fn one_object_in_two_files_is_reported_and_the_first_file_has_it() {
    let mut case = Case::new();
    case.write("b.yaml", &namespace("a"));
    case.told(expect![[r#"
        not whole
        applied Namespace a
        Namespace a at b.yaml:1
        whole
    "#]]);
    case.write("c.yaml", &["\n".into(), namespace("a").replace("name: a", "name: a, labels: {from: c}")].concat());
    case.told(expect![[r#"
        c.yaml:2: Namespace a is already in b.yaml:1; that one is used
        whole
    "#]]);
    fs::remove_file(case.folder.path().join("b.yaml")).unwrap();
    case.told(expect![[r#"
        applied Namespace a
        Namespace a at c.yaml:2
        whole
    "#]]);
    case.write("c.yaml", &[namespace("a"), namespace("a")].concat());
    case.told(expect![[r#"
        c.yaml: line 5, field metadata.name: Namespace a is already in this file at line 1; the last good state of the file stays
        whole
    "#]]);
}

#[test]
fn other_files_hidden_ones_and_folders_in_folders() {
    let mut case = Case::new();
    case.write("README.md", "not yaml");
    case.write(".hidden.yaml", "broken: [");
    fs::create_dir_all(case.folder.path().join("sub/.git")).unwrap();
    case.write("sub/x.yml", &namespace("x"));
    case.write("sub/.git/y.yaml", "broken: [");
    case.write("z.json", "{\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {\"name\": \"z\"}}");
    case.told(expect![[r#"
        not whole
        applied Namespace x
        applied Namespace z
        Namespace x at sub/x.yml:1
        Namespace z at z.json:1
        whole
    "#]]);
}

#[test]
fn a_folder_that_cannot_be_listed_keeps_what_it_said() {
    let mut case = Case::new();
    case.write("a.yaml", &namespace("a"));
    told(&mut case.files, case.folder.path());
    let away = case.folder.path().with_extension("away");
    fs::rename(case.folder.path(), &away).unwrap();
    let said = told(&mut case.files, case.folder.path());
    assert!(said.contains("cannot list") && !said.contains("deleted"), "{said}");
    fs::rename(&away, case.folder.path()).unwrap();
    case.told(expect![[r#"
        whole
    "#]]);
}

#[test]
fn a_text_that_is_not_utf8_is_a_fault() {
    let mut case = Case::new();
    fs::write(case.folder.path().join("a.yaml"), b"a\nb\xff").unwrap();
    case.told(expect![[r#"
        not whole
        a.yaml: line 2: is not UTF-8; the last good state of the file stays
        not whole
    "#]]);
}

// half of a file that is being written must not be taken for all of it
#[test]
fn a_file_that_changes_between_two_looks_is_not_taken_yet() {
    let mut case = Case::new();
    case.files.look();
    let mut text = String::new();
    for index in 0..5 {
        text += &namespace(&format!("n{index}"));
        case.write("a.yaml", &text);
        assert!(case.files.look().is_none());
    }
    let batch = case.files.look().expect("it has stopped changing");
    assert_eq!(batch.events.len(), 5);
}

#[test]
fn a_file_that_never_rests_is_taken_within_a_second_of_looks() {
    let mut case = Case::new();
    case.files.look();
    let mut looks = 0;
    let taken = loop {
        looks += 1;
        case.write("a.yaml", &[namespace("a"), "#".repeat(looks)].concat());
        if let Some(batch) = case.files.look() {
            break batch.events.len();
        }
    };
    assert_eq!((taken, looks), (1, 8), "eight looks are 0.8 s");
}

#[test]
fn the_first_folder_wins() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(first.path().join("z.yaml"), namespace("a").replace("name: a", "name: a, labels: {from: first}")).unwrap();
    fs::write(second.path().join("a.yaml"), namespace("a")).unwrap();
    let mut files = Files::new(vec![first.path().into(), second.path().into()]);
    files.look();
    let batch = files.look().expect("two files");
    let [Event::Applied(object), ..] = batch.events.as_slice() else { panic!("{batch:?}") };
    assert_eq!(object.meta().label("from"), Some("first"));
    assert_eq!(batch.findings.duplicates, [], "one folder over another is on purpose");
    fs::remove_file(first.path().join("z.yaml")).unwrap();
    files.look();
    let batch = files.look().expect("the file is gone");
    let [Event::Applied(object)] = batch.events.as_slice() else { panic!("{batch:?}") };
    assert_eq!(object.meta().label("from"), None, "the second folder's object is left");
}

#[tokio::test]
async fn the_task_tells_a_change_within_a_second() {
    let folder = tempfile::tempdir().unwrap();
    let (sender, mut batches) = tokio::sync::mpsc::channel(1);
    let stop = tokio_util::sync::CancellationToken::new();
    let task = tokio::spawn(files::watch(vec![folder.path().into()], sender, stop.clone()));
    assert!(batches.recv().await.expect("the first look tells").is_whole);
    let begin = tokio::time::Instant::now();
    fs::write(folder.path().join("a.yaml"), namespace("a")).unwrap();
    let batch = batches.recv().await.expect("a change is told");
    assert_eq!(batch.events.len(), 1);
    assert!(begin.elapsed() < std::time::Duration::from_secs(1), "{:?}", begin.elapsed());
    stop.cancel();
    task.await.unwrap();
}
