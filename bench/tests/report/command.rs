//! `s2bench report`, as a program.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bench::topology::Workdir;

use crate::fixture::{comparison, known};

fn s2bench(args: &[&str], files: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_s2bench")).arg("report").args(files).args(args).output().unwrap()
}

fn file(dir: &Workdir, name: &str, text: &str) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn it_prints_tables_and_writes_a_page_beside_the_file() {
    let dir = Workdir::new().unwrap();
    let all = file(&dir, "compare.json", &serde_json::to_string(&comparison(1)).unwrap());
    let out = s2bench(&[], &[&all]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(text(&out.stdout).contains("s2ds-af_xdp-poll") && text(&out.stderr).contains("report.html"));
    assert!(std::fs::read_to_string(dir.path().join("report.html")).unwrap().starts_with("<!DOCTYPE html>"));
}

#[test]
fn each_form_goes_where_it_is_told() {
    let dir = Workdir::new().unwrap();
    // A run alone is a result, too.
    let one =
        file(&dir, "run.json", &serde_json::to_string(&known("haproxy", "bulk", 1, 1e9, 1000)).unwrap());
    let (html, md) = (dir.path().join("a.html"), dir.path().join("a.md"));
    let out =
        s2bench(&["--html", html.to_str().unwrap(), "--markdown", md.to_str().unwrap(), "--csv"], &[&one]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(text(&out.stdout).starts_with("series,label,date,"), "CSV goes to stdout");
    assert!(html.exists() && std::fs::read_to_string(md).unwrap().contains("haproxy"));
    assert!(!dir.path().join("report.html").exists(), "it was not asked for");
    let json: serde_json::Value = serde_json::from_slice(&s2bench(&["--json"], &[&one]).stdout).unwrap();
    assert_eq!(json["runs"][0]["start"]["profile"], "bulk");
}

#[test]
fn bad_input_is_told_with_its_file_and_the_mend() {
    let dir = Workdir::new().unwrap();
    let good =
        file(&dir, "good.json", &serde_json::to_string(&known("haproxy", "bulk", 1, 1e9, 1000)).unwrap());
    let missing = dir.path().join("missing.json");
    let empty = file(&dir, "empty.json", "");
    let broken = file(&dir, "broken.json", "{\"runs\": [");
    let other = file(&dir, "other.json", "{\"a\": 1}");
    let wrong = file(&dir, "wrong.json", "{\"runs\": [{\"start\": 1}]}");
    let list = file(&dir, "list.json", "[1, 2]");
    for (files, said) in [
        (vec![&missing], "cannot read"),
        (vec![&empty], "is empty; the run that should have written it did not end"),
        (vec![&broken], "broken.json is not JSON"),
        (vec![&good, &other], "other.json is no result that a report can be made of: give"),
        (vec![&wrong], "wrong.json is not a result of"),
        (vec![&list], "list.json is no result"),
        (vec![&good, &good], "given twice"),
    ] {
        let files: Vec<&Path> = files.into_iter().map(PathBuf::as_path).collect();
        let out = s2bench(&["--csv"], &files);
        assert_eq!(out.status.code(), Some(1), "{files:?}");
        assert!(text(&out.stderr).contains(said), "{said} is missing in {}", text(&out.stderr));
        assert!(out.stdout.is_empty());
    }
    assert_eq!(s2bench(&[], &[]).status.code(), Some(2), "no file is a wrong usage");
    let over = s2bench(&["--json", good.to_str().unwrap()], &[&good]);
    assert!(text(&over.stderr).contains("would be overwritten"));
    let two = s2bench(&["--csv", "--json"], &[&good]);
    assert!(text(&two.stderr).contains("only one of"));
    let nowhere = s2bench(&["--html", "/nowhere/a.html"], &[&good]);
    assert!(
        text(&nowhere.stderr).contains("cannot write the result /nowhere/a.html"),
        "{}",
        text(&nowhere.stderr)
    );
}
