//! What is pulled, and what becomes of pulls that fail.

use super::*;

#[test]
fn a_commit_is_pulled_once() {
    let Some(world) = World::new("a_commit_is_pulled_once") else { return };
    let commit = world.commit(&[("etc/hosts", "h"), ("usr/a", "a")], &[]);
    let remote = json!({"url": world.url()});
    assert!(!world.has(&commit));
    assert_eq!(world.pull(&commit, &remote), Ok(false));
    assert!(world.has(&commit));
    assert_eq!(world.events(), [format!("started {}", world.url()), "finished false".to_owned()]);
    let asked = world.server.requests().len();
    assert_eq!(world.pull(&commit, &remote), Ok(true));
    assert_eq!(world.server.requests().len(), asked, "it was asked for again");
    assert_eq!(world.events(), ["finished true"]);
    world.is_sound();
    let listed = world.ostree(&format!("sources/{CONTENT_TYPE}/repo"), &["ls", "-R", &commit]);
    assert!(listed.contains("/etc/hosts"), "{listed}");
}

#[test]
fn what_the_cache_has_is_not_fetched_again() {
    let Some(world) = World::new("what_the_cache_has_is_not_fetched_again") else { return };
    let first = world.commit(&[("a", "a"), ("b", "b"), ("c", "c")], &[]);
    world.pull(&first, &json!({"url": world.url()})).expect("pulled");
    let asked = world.asked();
    let second = world.commit(&[("a", "a"), ("b", "b"), ("c", "c"), ("d", "d")], &[]);
    world.pull(&second, &json!({"url": world.url()})).expect("pulled");
    // The commit, its signatures (there are none), its tree, and the new file.
    assert_eq!(world.asked() - asked, 4);
    world.is_sound();
}

#[test]
fn commits_of_several_remotes_are_pulled_and_failures_stop_nobody() {
    let name = "commits_of_several_remotes_are_pulled_and_failures_stop_nobody";
    let Some(world) = World::new(name) else { return };
    let first = world.commit(&[("a", "a")], &[]);
    let second = world.commit(&[("b", "b")], &[]);
    world.serve("/again", |_| true);
    let none = "0".repeat(64);
    let (url, again) =
        (json!({"remote": {"url": world.url()}}), json!({"remote": {"url": world.server.url("/again")}}));
    let results = world.pull_all(&json!({
        none.as_str(): url, first.as_str(): url, second.as_str(): again, "abcdef": url,
    }));
    let failed: Vec<_> = results.iter().map(|result| result.error.is_some()).collect();
    assert_eq!(failed, [true, false, false, true]);
    let error = results[0].error.as_deref().unwrap_or_default();
    let expected = format!("cannot pull the commit `{none}` from `{}`: ", world.url());
    assert!(error.starts_with(&expected) && error.contains("404"), "{error}");
    let error = results[3].error.as_deref().unwrap_or_default();
    assert_eq!(error, "`abcdef` is no commit: expected 64 hexadecimal digits");
    world.is_sound();
}

#[test]
fn objects_may_come_from_elsewhere() {
    let Some(world) = World::new("objects_may_come_from_elsewhere") else { return };
    let commit = world.commit(&[("a", "a")], &[]);
    let metadata = Server::start();
    let config = fs::read(world.path("remote/config")).expect("readable");
    metadata.serve("/meta/config", Reply::ok(config));
    let remote = json!({"url": metadata.url("/meta"), "contenturl": world.url()});
    world.pull(&commit, &remote).expect("pulled");
    assert!(world.asked() > 0);
    assert!(metadata.requests().iter().all(|request| !request.target.contains(".filez")));
    world.is_sound();
}

#[test]
fn a_transfer_that_breaks_is_tried_again() {
    let Some(world) = World::new("a_transfer_that_breaks_is_tried_again") else { return };
    let commit = world.commit(&[("a", "a")], &[]);
    let name = format!("/repo/objects/{}/{}.commit", &commit[..2], &commit[2..]);
    let path = world.path(&name.replace("/repo/", "remote/"));
    let good = Reply::ok(fs::read(path).expect("readable"));
    world.server.script(&name, [Reply::status(503), Reply::status(503), good]);
    world.pull(&commit, &json!({"url": world.url()})).expect("pulled");
    let events = world.events();
    let retries: Vec<_> = events.iter().filter(|line| line.starts_with("retry: ")).collect();
    assert_eq!(retries.len(), 2, "{events:?}");
    assert!(retries.iter().all(|line| line.contains("HTTP 503")), "{events:?}");
    world.is_sound();
}

#[test]
fn a_pull_that_fails_leaves_what_it_brought_to_the_next_one() {
    let name = "a_pull_that_fails_leaves_what_it_brought_to_the_next_one";
    let Some(world) = World::new(name) else { return };
    let files: Vec<_> = (0..20).map(|number| (format!("f{number}"), format!("{number}"))).collect();
    let files: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let commit = world.commit(&files, &[]);
    let listed = world.ostree("remote", &["ls", "-C", &commit, "/f7"]);
    let digest = listed.split_whitespace().find(|word| word.len() == 64).expect("a digest");
    let file = format!("/repo/objects/{}/{}.filez", &digest[..2], &digest[2..]);
    world.server.serve(&file, Reply::ok("no object").claim_length(1000));
    let error = world.pull(&commit, &json!({"url": world.url()})).expect_err("it breaks each time");
    assert!(error.contains("(after 6 tries)"), "{error}");
    assert!(!world.has(&commit));
    world.serve("/repo", |_| true);
    let asked = world.asked();
    world.pull(&commit, &json!({"url": world.url()})).expect("pulled");
    assert!(world.asked() - asked < 8, "{} were fetched again", world.asked() - asked);
    world.is_sound();
}

#[test]
fn content_that_is_wrong_is_refused() {
    let Some(world) = World::new("content_that_is_wrong_is_refused") else { return };
    let commit = world.commit(&[("a", "a")], &[]);
    let other = world.commit(&[("a", "b")], &[]);
    let path = |commit: &str| format!("objects/{}/{}.commit", &commit[..2], &commit[2..]);
    let wrong = fs::read(world.path("remote").join(path(&other))).expect("readable");
    world.server.serve(&format!("/repo/{}", path(&commit)), Reply::ok(wrong));
    let error = world.pull(&commit, &json!({"url": world.url()})).expect_err("another commit");
    assert!(error.contains("orrupted"), "{error}");
    assert!(!world.has(&commit) && !world.has(&other));
    world.is_sound();
}

#[test]
fn a_commit_that_was_left_in_part_is_completed() {
    let Some(world) = World::new("a_commit_that_was_left_in_part_is_completed") else { return };
    let commit = world.commit(&[("a", "a"), ("b/c", "c")], &[]);
    // As the reference leaves it when it is killed.
    let cache = Repository::create(world.cache().join("repo")).expect("made");
    let folder = cache.path().join("objects").join(&commit[..2]);
    fs::create_dir_all(&folder).expect("made");
    let name = format!("objects/{}/{}.commit", &commit[..2], &commit[2..]);
    fs::copy(world.path("remote").join(&name), cache.path().join(&name)).expect("copied");
    let mark = cache.path().join(format!("state/{commit}.commitpartial"));
    fs::write(&mark, "").expect("written");
    assert!(!world.has(&commit));
    world.pull(&commit, &json!({"url": world.url()})).expect("pulled");
    assert!(world.has(&commit) && !mark.exists());
    world.is_sound();
}

#[test]
fn an_interruption_ends_the_tool_and_leaves_nothing() {
    let Some(world) = World::new("an_interruption_ends_the_tool_and_leaves_nothing") else { return };
    let commit = world.commit(&[("a", "a")], &[]);
    let name = format!("/repo/objects/{}/{}.commit", &commit[..2], &commit[2..]);
    world.server.serve(&name, Reply::ok("x".repeat(100)).stall_at(1));
    let error = std::thread::scope(|scope| {
        let pulled = scope.spawn(|| world.pull(&commit, &json!({"url": world.url()})));
        world.server.wait_until_stalled(1);
        world.interrupted.store(true, Ordering::Relaxed);
        pulled.join().expect("no panic")
    });
    assert_eq!(error, Err("interrupted".to_owned()));
    assert!(!world.has(&commit));
    world.is_sound();
}

#[test]
fn a_missing_tool_is_named_with_its_package() {
    let Some(world) = World::new("a_missing_tool_is_named_with_its_package") else { return };
    let commit = world.commit(&[("a", "a")], &[]);
    let world = world.variable("PATH", "/nowhere");
    let error = world.pull(&commit, &json!({"url": world.url()})).expect_err("it is not there");
    assert!(error.contains("`ostree` is not installed") && error.contains("package `ostree`"), "{error}");
}

#[test]
fn nobody_hears_of_credentials() {
    let Some(world) = World::new("nobody_hears_of_credentials") else { return };
    let commit = world.commit(&[("a", "a")], &[]);
    let url = world.url().replace("http://", "http://somebody:s3cret@");
    world.pull(&commit, &json!({"url": url})).expect("pulled");
    let sent = world.server.requests();
    assert!(sent.iter().all(|request| request.header("authorization").is_some()), "{sent:?}");
    for url in [url.replace("/repo", "/none"), "http://somebody:s3cret@127.0.0.1:1/".to_owned()] {
        let error = world.pull(&"1".repeat(64), &json!({"url": url})).expect_err("nothing is there");
        let said = format!("{error} {:?}", world.events());
        assert!(!said.contains("s3cret") && !said.contains("somebody"), "{said}");
    }
}

#[test]
fn a_proxy_is_used_where_the_secrets_say_so() {
    let Some(world) = World::new("a_proxy_is_used_where_the_secrets_say_so") else { return };
    let commit = world.commit(&[("a", "a")], &[]);
    let world = {
        let proxy = world.server.url("");
        world.variable("OSBUILD_SOURCES_OSTREE_PROXY", &proxy)
    };
    world.serve("http://elsewhere.invalid/repo", |_| true);
    let remote = json!({"url": "http://elsewhere.invalid/repo", "secrets": {"name": "org.osbuild.mtls"}});
    world.pull(&commit, &remote).expect("pulled");
    assert!(world.server.requests().iter().all(|request| request.target.starts_with("http://elsewhere")));
    world.is_sound();
}

#[test]
fn commits_are_copied_to_another_cache_and_verified() {
    let Some(world) = World::new("commits_are_copied_to_another_cache_and_verified") else { return };
    let commit = world.commit(&[("a", "a"), ("b c", "b")], &[]);
    world.pull(&commit, &json!({"url": world.url()})).expect("pulled");
    let none = "0".repeat(64);
    let copy = |to: &str, items: &Value| {
        let request = CopyRequest {
            items: items.as_object().expect("items"),
            options: &json!({}),
            from: &world.path("sources"),
            to: &world.path(to),
            environment: &world.environment,
            interrupted: &world.interrupted,
        };
        let results = Ostree.copy(&request, &|_| ());
        results.into_iter().map(|result| result.error.ok_or(result.cached)).collect::<Vec<_>>()
    };
    let items = json!({none.as_str(): {}, commit.as_str(): {}});
    let results = copy("other cache", &items);
    assert_eq!(results, [Ok(NOT_CACHED.to_owned()), Err(false)]);
    assert_eq!(copy("other cache", &items), [Ok(NOT_CACHED.to_owned()), Err(true)]);
    assert!(Ostree.cached(&world.path("other cache"), &commit));
    world.ostree(&format!("other cache/{CONTENT_TYPE}/repo"), &["fsck"]);

    let listed = world.ostree("remote", &["ls", "-C", &commit, "/a"]);
    let digest = listed.split_whitespace().find(|word| word.len() == 64).expect("a digest");
    let object = world.cache().join(format!("repo/objects/{}/{}.filez", &digest[..2], &digest[2..]));
    let mut damaged = fs::read(&object).expect("readable");
    let byte = damaged.last_mut().expect("bytes");
    *byte = !*byte;
    fs::remove_file(&object).expect("removed");
    fs::write(&object, damaged).expect("written");
    let results = copy("third", &json!({commit.as_str(): {}}));
    assert!(matches!(results.as_slice(), [Ok(error)] if error.contains("cannot pull")), "{results:?}");
}
