//! The commands on the page about a registry in etcd, typed as they are written: with real etcds, files and ports in place of
//! those that the page names.
#![cfg(target_os = "linux")]
#![expect(clippy::expect_used, reason = "a test ends when the machine does not play along")]

use std::path::Path;
use std::process::Command;

use tests::etcd::Etcd;
use tests::mesh::free_port;
use tests::{Answer, Running, certificates, root, shell};

/// The commands of the page's blocks in their order, without the names of machines before them.
fn commands() -> Vec<String> {
    let page = std::fs::read_to_string(root().join("docs/registry.md")).expect("the page is there");
    let mut commands = Vec::new();
    for block in page.split("```text\n").skip(1) {
        let block = block.split("```").next().unwrap_or_default().replace("\\\n", " ");
        commands.extend(block.lines().filter_map(|line| Some(line[line.find("starlane ")?..].to_owned())));
    }
    commands
}

/// A command in a folder, whose node has its data there too.
fn typed(text: &str, folder: &Path) -> Command {
    shell(text, &folder.join("data"), folder)
}

fn run(text: &str, folder: &Path) -> Answer {
    typed(text, folder).output().expect("a shell runs").into()
}

/// Starts a node whose web and API are at ports of their own.
fn start(text: &str, folder: &Path) -> Running {
    let listen = if text.contains("--listen") { "" } else { "--listen 127.0.0.1:0" };
    Running::node(typed(&format!("exec {text} --http 127.0.0.1:0 --api 127.0.0.1:0 {listen}"), folder))
}

#[test]
fn a_registry_is_kept_in_etcd_moved_there_and_back_and_served_by_two_as_written() {
    let (Some(one), Some(three)) = (Etcd::start(1), Etcd::start(3)) else { return };
    let all = commands();
    let [keep, to_etcd, on_etcd, to_file, on_file, first, token, second, tls, user] = &all[..] else {
        panic!("the page has other commands than this test types: {all:#?}");
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let [kept, moved, cloud_1, cloud_2] = ["kept", "moved", "cloud-1", "cloud-2"].map(|name| {
        let folder = folder.path().join(name);
        std::fs::create_dir(&folder).expect("a folder can be made");
        folder
    });
    let members: Vec<&str> = (0..three.count()).map(|number| three.member(number)).collect();
    {
        let text = keep.replace("etcd-1:2379,etcd-2:2379,etcd-3:2379", &members.join(","));
        let node = start(&text, &kept);
        run("starlane create 'shop<Space>'", &kept).ok();
        drop(node);
        // It remembers the address.
        let _node = start("starlane serve --data data", &kept);
        assert!(run("starlane get shop", &kept).ok().contains("shop<Space>"));
    }
    {
        let real = |text: &String| text.replace("etcd-1:2379", one.member(0));
        let node = start("starlane serve --data data", &moved);
        run("starlane create 'shop<Space>'", &moved).ok();
        drop(node);
        run(&real(to_etcd), &moved).ok();
        let node = start(&real(on_etcd), &moved);
        assert!(run("starlane get shop", &moved).ok().contains("shop<Space>"));
        run("starlane create 'shop:late<Base>'", &moved).ok();
        drop(node);
        std::fs::remove_file(moved.join("data/registry.redb")).expect("the source stayed as it was");
        run(&real(to_file), &moved).ok();
        let _node = start(&real(on_file), &moved);
        assert!(run("starlane get shop:late", &moved).ok().contains("shop:late<Base>"));
    }
    {
        let address = free_port().to_string();
        let other = free_port().to_string();
        let etcds = format!("{}/several", members.join(","));
        let real =
            |text: &String, me: &str| text.replace("0.0.0.0:4343", me).replace("etcd-1:2379,…/mesh", &etcds);
        let text = real(first, &address).replace("cloud-1.example.com:4343", &address);
        let _first = start(&text, &cloud_1);
        let made = run(token, &cloud_1).ok();
        let text = real(second, &other)
            .replace("cloud-2.example.com:4343", &other)
            .replace("cloud-1.example.com:4343", &address)
            .replace("TOKEN", made.trim());
        let _second = start(&text, &cloud_2);
        assert!(run("starlane get mesh:leader", &cloud_2).ok().contains("cloud-1"));
    }
    certificates::write(folder.path(), "127.0.0.1");
    let Some(with_tls) = Etcd::start_with_tls(1, folder.path()) else { return };
    let file = |name: &str| folder.path().join(name).display().to_string();
    let text = tls
        .replace("etcd-1:2379,etcd-2:2379", with_tls.member(0))
        .replace("/etc/starlane/ca.pem", &file("ca.pem"))
        .replace("/etc/starlane/me.pem", &file("cert.pem"))
        .replace("/etc/starlane/me.key", &file("key.pem"));
    drop(start(&format!("{text} --data tls"), folder.path()));
    one.admit("mesh", "of-mesh", "/users/");
    let password = folder.path().join("password");
    std::fs::write(&password, "of-mesh").expect("a file can be written");
    // This etcd speaks no TLS, so nobody's certificate is named.
    let text = user
        .replace(
            "etcds://etcd-1:2379/mesh?ca=/etc/starlane/ca.pem&",
            &format!("etcd://{}/users?", one.member(0)),
        )
        .replace("/etc/starlane/password", &password.display().to_string());
    drop(start(&format!("{text} --data user"), folder.path()));
}
