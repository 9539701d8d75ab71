//! spec/controlplane.md 4.9.2: addresses for ServiceEntries that have none.

use expect_test::expect;

use super::{check, events, printed, translated, translation};
use crate::cluster::Event;
use crate::objects::{Kind, NsName, ObjectKey};

fn entry(name: &str, more: &str, spec: &str) -> String {
    format!("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{namespace: shop, name: {name}, {more}}}\nspec: {{ports: [{{name: a, number: 80}}], {spec}}}\n---\n")
}

fn vips(yaml: &str) -> String {
    printed(&translated(yaml)).lines().filter(|line| line.starts_with("service")).map(|line| line.split(" 80->").next().unwrap_or_default().to_owned() + "\n").collect()
}

#[test]
fn who_gets_one() {
    expect![[r#"
        service shop/a.example vips(/240.240.172.118 /2001:2::1a86:99f7)
        service shop/b.example vips(/240.240.248.235 /2001:2::7b19:c271)
    "#]].assert_eq(&vips(&entry("e", "", "hosts: [a.example, b.example], resolution: DNS")));
    expect![[r#"
        service shop/a.example vips()
    "#]].assert_eq(&vips(&entry("e", "", "hosts: [a.example], resolution: NONE")));
    expect![[r#"
        service shop/a.example vips(/10.9.0.1)
    "#]].assert_eq(&vips(&entry("e", "", "hosts: [a.example], addresses: [10.9.0.1], resolution: DNS")));
    expect![[r#"
        service shop/a.example vips()
    "#]].assert_eq(&vips(&entry("e", "labels: {networking.istio.io/enable-autoallocate-ip: \"false\"}", "hosts: [a.example], resolution: DNS")));
    expect![[r#"
        service shop/*.example vips()
        service shop/a.example vips(/240.240.172.118 /2001:2::1a86:99f7)
    "#]].assert_eq(&vips(&entry("e", "", "hosts: [\"*.example\", a.example], resolution: DNS")));
    expect![[r#"
        service shop/*.example vips(/240.240.208.149 /2001:2::586b:a529)
    "#]].assert_eq(&vips(&entry("e", "", "hosts: [\"*.example\"], resolution: DYNAMIC_DNS")));
}

#[test]
fn an_address_stays_with_its_host() {
    let remembered = entry("e", "", "hosts: [a.example], resolution: DNS").replace("\n---\n", "\nstatus: {addresses: [{value: 240.240.7.7, host: a.example}, {value: \"2001:2::7\", host: a.example}]}\n---\n");
    expect![[r#"
        service shop/a.example vips(/240.240.7.7 /2001:2::7)
    "#]].assert_eq(&vips(&remembered));
    let mut translation = translation();
    translation.remember(NsName::new("shop", "e"), "a.example".into(), [240, 240, 9, 9].into());
    translation.apply(events(&entry("e", "", "hosts: [a.example], resolution: DNS")));
    assert!(printed(&translation).contains("240.240.9.9"));
    // A change of the entry is no reason for another address.
    translation.apply(events(&entry("e", "labels: {x: y}", "hosts: [a.example, b.example], resolution: STATIC")));
    assert!(printed(&translation).contains("240.240.9.9"));
}

#[test]
fn a_written_address_wins_over_a_given_one() {
    let given = entry("e", "", "hosts: [a.example], resolution: DNS").replace("\n---\n", "\nstatus: {addresses: [{value: 240.240.7.7, host: a.example}]}\n---\n");
    let mut translation = translation();
    translation.apply(events(&given));
    assert!(printed(&translation).contains("240.240.7.7"));
    translation.apply(events(&entry("written", "", "hosts: [b.example], addresses: [240.240.7.0/24], resolution: STATIC")));
    let after = printed(&translation);
    assert!(!after.contains("240.240.7.7") && after.contains("240.240.7.0/24") && after.matches("/240.240.").count() == 2, "{after}");
}

#[test]
fn two_that_claim_one_address_get_different_ones() {
    let with = |name: &str, time: &str| {
        entry(name, &format!("creationTimestamp: \"2026-01-01T00:00:0{time}Z\""), &format!("hosts: [{name}.example], resolution: DNS"))
            .replace("\n---\n", &format!("\nstatus: {{addresses: [{{value: 240.240.7.7, host: {name}.example}}]}}\n---\n"))
    };
    // The older keeps it, whatever the order of arrival.
    expect![[r#"
        service shop/a.example vips(/240.240.221.228 /2001:2::91de:793b)
        service shop/b.example vips(/240.240.7.7 /2001:2::62b2:a573)
    "#]].assert_eq(&vips(&[with("a", "2"), with("b", "1")].concat()));
}

#[test]
fn addresses_of_the_gone_are_free_again() {
    let mut translation = translation();
    translation.apply(events(&entry("e", "", "hosts: [a.example], resolution: DNS")));
    let first = printed(&translation);
    translation.apply([Event::Deleted(ObjectKey::new(Kind::ServiceEntry, "shop", "e"))]);
    assert_eq!(printed(&translation), "");
    assert_eq!(translation.vips().all().count(), 0);
    translation.apply(events(&entry("e", "", "hosts: [a.example], resolution: DNS")));
    assert_eq!(printed(&translation), first);
}

#[test]
fn a_full_pool_gives_none() {
    let mut small = crate::translate::Translation::new(
        crate::translate::Settings { vip_pools: Some(("240.240.0.0/30".parse().unwrap(), "2001:2::/48".parse().unwrap())), ..Default::default() },
        "default",
    );
    small.apply(events(&entry("e", "", "hosts: [a.example, b.example, c.example], resolution: DNS")));
    assert_eq!(printed(&small).matches("240.240.0.").count(), 2);
    let mut none = crate::translate::Translation::new(crate::translate::Settings { vip_pools: None, ..Default::default() }, "default");
    none.apply(events(&entry("e", "", "hosts: [a.example], resolution: DNS")));
    assert!(printed(&none).contains("vips()"));
}

#[test]
fn ranges_beside_addresses() {
    check(&entry("e", "", "hosts: [a.example], addresses: [10.0.0.0/8], resolution: NONE"), expect![[r#"
        service shop/a.example vips(/10.0.0.0/8) 80->80:? canonical Passthrough[] allow-all
    "#]]);
}
