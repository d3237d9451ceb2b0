//! `kiln graph`: pictures of manifests.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use kiln_testkit::host;
use serde_json::{Value, json};

use crate::manifests::{add_url, copy_files, manifest, mkdir, noop, pipeline};
use crate::world::{World, assert_shown};

/// A build root, a tree with content, and an image of it.
fn image() -> Value {
    let mut build = pipeline("build", &[copy_files(&[("sha256:a", "/a"), ("sha256:b", "/b")])]);
    build["runner"] = json!("org.osbuild.debian12");
    let mut tree = pipeline("tree", &[mkdir(&["/x"]), copy_files(&[("sha256:b", "/b")])]);
    tree["build"] = json!("name:build");
    let copy = json!({"type": "org.osbuild.copy", "options": {"paths": []}, "inputs": {"tree": {
        "type": "org.osbuild.tree", "origin": "org.osbuild.pipeline", "references": ["name:tree"]}}});
    let mut image = pipeline("image", &[noop(), copy]);
    image["build"] = json!("name:build");
    let mut document = manifest(&[build, tree, image, pipeline("empty", &[])]);
    for item in ["sha256:a", "sha256:b", "sha256:c"] {
        add_url(&mut document, item, "http://example.invalid/");
    }
    document
}

/// Names that mean something in one of the formats.
fn hostile() -> Value {
    let names = [
        "end\"]; x --> y; n0[\"",
        "</text><script>alert(1)</script>&amp;<!-- ]]>",
        "a\\\" ]; b [label=\"\\N\\G\\",
        "`markdown` #quot; %%{init: {}}%% <br> <b> & &lt;",
        "\u{1b}[2J\u{0}\u{9b}\u{202e}\u{fffe}\n\t| --- | == ::: ~~~",
        "日本語 🦀 'single' {curly} (round)",
        &"long ".repeat(100),
    ];
    let mut pipelines: Vec<Value> = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let mut stage = noop();
        stage["type"] = json!(name);
        let mut pipeline =
            pipeline(name, &[stage, json!({"type": "org.osbuild.noop", "options": {"n": index}})]);
        if index > 0 {
            pipeline["build"] = json!(format!("name:{}", names[index - 1]));
            pipelines.last_mut().expect("one")["runner"] = json!(name);
        }
        pipelines.push(pipeline);
    }
    let mut document = manifest(&pipelines);
    document["sources"] = json!({names[0]: {"items": {}}, names[1]: {"items": {}}});
    document
}

fn draw(world: &World, document: &Value, arguments: &[&str]) -> String {
    world.write("manifest.json", document.to_string());
    world.run(&[&["graph", "manifest.json"], arguments].concat()).succeeded().stdout
}

#[test]
fn mermaid_is_what_is_drawn_if_nothing_is_said() {
    let world = World::new();
    world.write("manifest.json", image().to_string());
    assert_shown!(world, world.run(&["graph", "manifest.json"]), @r#"
    exit code 0
    --- stdout
    flowchart TB
        n0[("<b>org.osbuild.curl</b><br>3 items<br>1 not used")]
        n1["<b>build</b><br>1 stage cebfcb5d0e58<br>built with the host#39;s tools<br>#91;1#93; org.osbuild.copy"]
        n2["<b>tree</b><br>2 stages e5125c3aa57f<br>#91;1#93; org.osbuild.mkdir<br>#91;2#93; org.osbuild.copy"]
        n3["<b>image</b><br>2 stages 2e41a40ffde3<br>#91;1#93; org.osbuild.noop<br>#91;2#93; org.osbuild.copy"]
        n4["<b>empty</b><br>no stages"]
        n0 -->|"2 items"| n1
        n1 -.->|"build root, org.osbuild.debian12"| n2
        n0 -->|"1 item"| n2
        n1 -.->|"build root, org.osbuild.debian12"| n3
        n2 -->|"input of org.osbuild.copy"| n3
    "#);
    assert_shown!(world, world.run(&["graph", "manifest.json", "--stages", "count"]), @r#"
    exit code 0
    --- stdout
    flowchart TB
        n0[("<b>org.osbuild.curl</b><br>3 items<br>1 not used")]
        n1["<b>build</b><br>1 stage cebfcb5d0e58<br>built with the host#39;s tools"]
        n2["<b>tree</b><br>2 stages e5125c3aa57f"]
        n3["<b>image</b><br>2 stages 2e41a40ffde3"]
        n4["<b>empty</b><br>no stages"]
        n0 -->|"2 items"| n1
        n1 -.->|"build root, org.osbuild.debian12"| n2
        n0 -->|"1 item"| n2
        n1 -.->|"build root, org.osbuild.debian12"| n3
        n2 -->|"input of org.osbuild.copy"| n3
    "#);
}

#[test]
fn dot() {
    let world = World::new();
    world.write("manifest.json", image().to_string());
    assert_shown!(world, world.run(&["graph", "manifest.json", "--format", "dot"]), @r#"
    exit code 0
    --- stdout
    digraph manifest {
        node [shape=box, fontname="sans-serif", fontsize=11]
        edge [fontname="sans-serif", fontsize=9]
        n0 [shape=cylinder, label="org.osbuild.curl\n3 items\l1 not used\l"]
        n1 [shape=box, style=rounded, label="build\n1 stage cebfcb5d0e58\lbuilt with the host's tools\l[1] org.osbuild.copy\l"]
        n2 [shape=box, style=rounded, label="tree\n2 stages e5125c3aa57f\l[1] org.osbuild.mkdir\l[2] org.osbuild.copy\l"]
        n3 [shape=box, style=rounded, label="image\n2 stages 2e41a40ffde3\l[1] org.osbuild.noop\l[2] org.osbuild.copy\l"]
        n4 [shape=box, style=rounded, label="empty\nno stages\l"]
        n0 -> n1 [style=solid, label="2 items"]
        n1 -> n2 [style=dashed, label="build root, org.osbuild.debian12"]
        n0 -> n2 [style=solid, label="1 item"]
        n1 -> n3 [style=dashed, label="build root, org.osbuild.debian12"]
        n2 -> n3 [style=solid, label="input of org.osbuild.copy"]
    }
    "#);
}

/// What Mermaid's grammar has for our kind of chart: ids, quoted labels without quotes in them, arrows.
#[track_caller]
fn assert_mermaid(text: &str) {
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("flowchart TB"));
    for line in lines {
        let line = line.strip_prefix("    n").unwrap_or_else(|| panic!("{line}"));
        let (number, rest) = line.split_at(line.find(|c: char| !c.is_ascii_digit()).expect("more"));
        assert!(!number.is_empty(), "{line}");
        let forms = [("[(\"", "\")]"), ("[\"", "\"]"), (" -->|\"", "\"| n"), (" -.->|\"", "\"| n")];
        let label = forms.iter().find_map(|(open, close)| {
            let inner = rest.strip_prefix(open)?;
            let (label, end) = inner.rsplit_once(close)?;
            let arrow = close.ends_with('n');
            (arrow != end.is_empty() && end.bytes().all(|byte| byte.is_ascii_digit())).then_some(label)
        });
        let label = label
            .unwrap_or_else(|| panic!("{line}"))
            .replace("<b>", "")
            .replace("</b>", "")
            .replace("<br>", "");
        let mut in_number = false;
        for character in label.chars() {
            match character {
                '#' if !in_number => in_number = true,
                ';' if in_number => in_number = false,
                other if in_number => assert!(other.is_ascii_digit(), "{line}"),
                other => assert!(other.is_alphanumeric() || " .,…-_".contains(other), "{other:?} in {line}"),
            }
        }
        assert!(!in_number, "{line}");
    }
}

/// Elements open and close in order, and what stands between them is text.
#[track_caller]
fn assert_well_formed(text: &str) {
    assert!(
        text.chars().all(|c| c == '\n' || !c.is_control())
            && !text.contains(['\u{fffe}', '\u{ffff}', '\u{202e}'])
    );
    let mut open: Vec<&str> = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find('<') {
        assert!(!rest[..start].contains('>'), "{}", &rest[..start]);
        let entities = rest[..start].split('&').skip(1);
        for entity in entities {
            let known = ["amp;", "lt;", "gt;", "quot;", "#39;"].iter().any(|known| entity.starts_with(known));
            assert!(known, "{entity}");
        }
        let end = start + rest[start..].find('>').expect("a closed tag");
        let tag = &rest[start + 1..end];
        assert!(!tag.contains('<') && tag.matches('"').count().is_multiple_of(2), "{tag}");
        match (tag.strip_prefix('/'), tag.ends_with('/')) {
            (Some(name), _) => assert_eq!(open.pop(), Some(name)),
            (None, false) => open.push(tag.split(' ').next().expect("a name")),
            (None, true) => {}
        }
        rest = &rest[end + 1..];
    }
    assert_eq!((open.len(), rest.trim()), (0, ""));
}

/// The value of an attribute.
fn attribute(line: &str, name: &str) -> f64 {
    let from =
        line.find(&format!(" {name}=\"")).unwrap_or_else(|| panic!("{name} in {line}")) + name.len() + 3;
    line[from..].split('"').next().expect("a value").parse().unwrap_or_else(|_| panic!("{name} in {line}"))
}

/// Every text is inside its box, also in fonts that are a little wide, and every box is inside the picture.
#[track_caller]
fn assert_text_fits(svg: &str) {
    let header = svg.lines().next().expect("a line");
    let (width, height) = (attribute(header, "width"), attribute(header, "height"));
    assert!(header.contains(&format!("viewBox=\"0 0 {width} {height}\"")), "{header}");
    let mut bounds = (0.0, 0.0, 0.0, 0.0);
    let mut texts = 0;
    for line in svg.lines() {
        if line.starts_with("<rect class=\"pipeline\"") || line.starts_with("<rect class=\"source\"") {
            let (x, y) = (attribute(line, "x"), attribute(line, "y"));
            bounds = (x, y, x + attribute(line, "width"), y + attribute(line, "height"));
            assert!(bounds.0 >= 0.0 && bounds.1 >= 0.0 && bounds.2 <= width && bounds.3 <= height, "{line}");
        } else if line.starts_with("<text") && !line.contains("class=\"label\"") {
            let text = line.split('>').nth(1).expect("a text").split('<').next().expect("a text");
            let mut plain = text.to_owned();
            for entity in ["&lt;", "&gt;", "&quot;", "&#39;", "&amp;"] {
                plain = plain.replace(entity, "x");
            }
            let columns: usize = plain.chars().map(|c| if c < '\u{1100}' || c == '…' { 1 } else { 2 }).sum();
            let (x, y) = (attribute(line, "x"), attribute(line, "y"));
            #[expect(clippy::cast_precision_loss, reason = "a few characters")]
            let end = x + columns as f64 * 12.0 * 0.61;
            assert!(x > bounds.0 && end < bounds.2, "{line}");
            assert!(y - 9.0 > bounds.1 && y + 3.0 < bounds.3, "{line}");
            texts += 1;
        }
    }
    assert!(texts > 0);
}

/// Runs a checker of another project, where there is one. None is needed: what we rely on is asserted here.
#[track_caller]
fn accepted(program: host::Need, arguments: &[&str], file: &std::path::Path) {
    let Some(program) = host::provided_program("a drawing", program) else { return };
    let output = Command::new(&program).args(arguments).arg(file).output().expect("started");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && !stderr.to_lowercase().contains("error"),
        "{}: {stderr}",
        program.display()
    );
}

#[test]
fn names_cannot_break_out_of_any_format() {
    let world = World::new();
    for document in [image(), hostile(), manifest(&[])] {
        let mermaid = draw(&world, &document, &["--format", "mermaid"]);
        assert_mermaid(&mermaid);
        let dot = draw(&world, &document, &["--format", "dot"]);
        // Outside of strings there is nothing but our own.
        let mut outside = String::new();
        let (mut inside, mut escaped) = (false, false);
        for character in dot.chars() {
            match (inside, escaped, character) {
                (true, true, _) => escaped = false,
                (true, false, '\\') => escaped = true,
                (_, false, '"') => inside = !inside,
                (false, ..) => outside.push(character),
                _ => {}
            }
        }
        assert!(!inside, "{dot}");
        for line in outside.lines().filter(|line| line.starts_with("    n") && !line.contains("node")) {
            assert!(line.ends_with(", label=]"), "{line}");
        }
        accepted(host::DOT, &["-Tsvg", "-o", "/dev/null"], &world.write("graph.dot", &dot));
        let svg = draw(&world, &document, &["--format", "svg"]);
        assert_well_formed(&svg);
        if document["pipelines"].as_array().is_some_and(|pipelines| !pipelines.is_empty()) {
            assert_text_fits(&svg);
        }
        accepted(host::XMLLINT, &["--noout"], &world.write("graph.svg", &svg));
    }
}

#[test]
fn the_name_of_the_file_says_the_format() {
    let world = World::new();
    world.write("manifest.json", image().to_string());
    for (file, format, beginning) in [
        ("a.svg", "svg", "<svg "),
        ("a.dot", "dot", "digraph "),
        ("a.gv", "dot", "digraph "),
        ("a.mmd", "mermaid", "flowchart "),
        ("a.txt", "mermaid", "flowchart "),
    ] {
        let run = world.run(&["graph", "manifest.json", "-o", file]).succeeded();
        assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", ""));
        let text = fs::read_to_string(world.path(file)).expect("written");
        assert!(text.starts_with(beginning), "{file}: {text}");
        assert_eq!(text, world.run(&["graph", "manifest.json", "--format", format]).succeeded().stdout);
    }
    let run = world.run(&["graph", "manifest.json", "--format", "svg", "-o", "b.dot"]).succeeded();
    assert_eq!(run.stdout, "");
    assert!(
        fs::read_to_string(world.path("b.dot")).expect("written").starts_with("<svg "),
        "what is said counts"
    );
}

#[test]
fn many_stages_and_many_pipelines() {
    let world = World::new();
    let stages: Vec<Value> = (0..100).map(|number| mkdir(&[&format!("/{number}")])).collect();
    let document = manifest(&[pipeline("tree", &stages)]);
    let few = draw(&world, &document, &["--format", "dot"]);
    assert!(few.contains("[15] org.osbuild.mkdir\\l… and 85 more\\l\"") && !few.contains("[16]"), "{few}");
    let all = draw(&world, &document, &["--format", "dot", "--stages", "all"]);
    assert!(all.contains("[100] org.osbuild.mkdir"), "{all}");
    // Each builds with the one before and with another one as input.
    let mut pipelines = Vec::new();
    for index in 0..300_usize {
        let mut stages = vec![mkdir(&[&format!("/{index}")])];
        if index > 0 {
            let reference = format!("name:p{}", index / 3);
            stages.push(json!({"type": "org.osbuild.copy", "options": {"paths": []}, "inputs": {"tree": {
                "type": "org.osbuild.tree", "origin": "org.osbuild.pipeline", "references": [reference]}}}));
        }
        let mut pipeline = pipeline(&format!("p{index}"), &stages);
        if index % 10 > 0 {
            pipeline["build"] = json!(format!("name:p{}", index - 1));
        }
        pipelines.push(pipeline);
    }
    let started = Instant::now();
    let svg = draw(&world, &manifest(&pipelines), &["--format", "svg"]);
    // Far more than it takes: the machine may be busy.
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    assert_well_formed(&svg);
    assert_text_fits(&svg);
}
