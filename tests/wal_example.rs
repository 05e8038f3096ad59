//! The example of the log works as its text says.
#![allow(clippy::unwrap_used)]

#[path = "../examples/wal.rs"]
#[allow(dead_code)]
mod example;

#[test]
fn each_run_finds_the_records_of_those_before() {
    let dir = tempfile::tempdir().unwrap();
    for runs in 0..3 {
        let path = dir.path().to_owned();
        let before = coracle::wal::run(move |_| async move { example::write(path).await }).unwrap();
        assert_eq!(before.unwrap(), runs * 10);
    }
    let path = dir.path().to_owned();
    let all = coracle::wal::run(move |_| async move { example::read(path).await }).unwrap();
    assert_eq!(all.unwrap(), 30);
}
