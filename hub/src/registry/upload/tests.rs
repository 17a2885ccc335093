//! Uploads without HTTP: bounds, half-written ones, and what becomes of those that nobody goes on with.

use std::{future::ready, pin::Pin};

use futures_util::stream;
use object_store::{MultipartUpload, PutPayload, PutResult, UploadPart, memory::InMemory};

use super::*;

fn uploads(max_blob: u64, max_uploads: usize) -> (Uploads, Arc<InMemory>) {
    let objects = Arc::new(InMemory::new());
    (
        Uploads::new(
            Arc::clone(&objects) as Arc<dyn ObjectStore>,
            max_blob,
            max_uploads,
            Duration::from_millis(20),
        ),
        objects,
    )
}

fn chunks(parts: &[&'static str]) -> impl Stream<Item = std::io::Result<Bytes>> + Unpin {
    let parts: Vec<_> = parts.iter().map(|part| Ok(Bytes::from_static(part.as_bytes()))).collect();
    stream::iter(parts)
}

#[tokio::test]
async fn a_cut_request_keeps_what_came_and_gives_the_upload_back() {
    let (uploads, objects) = uploads(100, 10);
    let id = uploads.start("a").await.unwrap().status().id;
    let mut lease = uploads.take("a", &id).unwrap();
    assert!(matches!(uploads.take("a", &id), Err(RegistryError::UploadUnknown)), "one request at a time");
    assert!(matches!(uploads.take("b", &id), Err(RegistryError::UploadUnknown)), "of its own repository");
    let cut = stream::iter([Ok(Bytes::from_static(b"hel")), Err(std::io::Error::other("gone"))]);
    assert!(matches!(lease.receive(cut).await, Err(RegistryError::Body(_))));
    drop(lease);
    assert_eq!(uploads.status("a", &id).unwrap().size, 3);
    let mut lease = uploads.take("a", &id).unwrap();
    assert!(matches!(lease.ensure_at(2), Err(RegistryError::OutOfOrder { got: 2, at: 3 })));
    lease.receive(chunks(&["lo", ""])).await.unwrap();
    let (key, size) = lease.finish(&Digest::of(b"hello")).await.unwrap();
    assert_eq!(
        (size, objects.get(&key).await.unwrap().bytes().await.unwrap()),
        (5, Bytes::from_static(b"hello"))
    );
    assert_eq!(uploads.count(), 0);
}

#[tokio::test]
async fn bounds_hold_for_bytes_and_for_uploads() {
    let (uploads, objects) = uploads(4, 2);
    let mut lease = uploads.start("a").await.unwrap();
    assert!(matches!(lease.receive(chunks(&["1234", "5"])).await, Err(RegistryError::TooLarge { limit: 4 })));
    let _second = uploads.start("a").await.unwrap();
    assert!(matches!(uploads.start("a").await, Err(RegistryError::TooManyUploads(2))));
    lease.cancel().await.unwrap();
    let mut third = uploads.start("a").await.unwrap();
    third.receive(chunks(&["abc"])).await.unwrap();
    let wrong = third.finish(&Digest::of(b"abd")).await;
    assert!(matches!(wrong, Err(RegistryError::DigestMismatch { .. })));
    assert_eq!(objects.list(None).count().await, 0, "nothing half-written has a name");
}

#[tokio::test]
async fn what_nobody_goes_on_with_is_dropped_after_a_day() {
    let (uploads, _) = uploads(100, 10);
    let id = uploads.start("a").await.unwrap().status().id;
    let held = uploads.start("a").await.unwrap();
    let now = Instant::now();
    assert_eq!(uploads.drop_abandoned(now).await, 0);
    assert_eq!(
        uploads.drop_abandoned(now + ABANDONED + Duration::from_secs(60)).await,
        1,
        "not the one in use"
    );
    assert!(matches!(uploads.status("a", &id), Err(RegistryError::UploadUnknown)));
    drop(held);
    assert_eq!(uploads.count(), 1);
}

#[tokio::test]
async fn where_all_places_are_taken_the_longest_idle_upload_gives_up_its_own() {
    let (uploads, _) = uploads(100, 3);
    let oldest = uploads.start("a").await.unwrap().status().id;
    let younger = uploads.start("a").await.unwrap().status().id;
    let held = uploads.start("a").await.unwrap();
    let now = Instant::now();
    assert!(matches!(uploads.start_at("a", now).await, Err(RegistryError::TooManyUploads(3))));
    uploads.start_at("a", now + IDLE + Duration::from_secs(1)).await.unwrap();
    assert!(matches!(uploads.status("a", &oldest), Err(RegistryError::UploadUnknown)));
    uploads.status("a", &younger).unwrap();
    held.cancel().await.unwrap();
}

#[tokio::test]
async fn an_upload_in_one_request_leaves_nothing_behind() {
    let (uploads, _) = uploads(100, 1);
    let mut lease = uploads.start("a").await.unwrap().in_one_request();
    lease.receive(chunks(&["abc"])).await.unwrap();
    drop(lease);
    assert_eq!(uploads.count(), 0);
}

#[tokio::test]
async fn a_client_that_sends_nothing_is_let_go() {
    let (uploads, _) = uploads(100, 10);
    let mut lease = uploads.start("a").await.unwrap();
    let silence = stream::pending::<std::io::Result<Bytes>>();
    assert!(matches!(lease.receive(silence).await, Err(RegistryError::Stalled(_))));
}

/// A disk that is full for the first part, and has space again for the next.
#[derive(Debug)]
struct FullAtFirst(bool);

type Boxed<'a, T> = Pin<Box<dyn Future<Output = object_store::Result<T>> + Send + 'a>>;

impl MultipartUpload for FullAtFirst {
    fn put_part(&mut self, _: PutPayload) -> UploadPart {
        let full = std::mem::take(&mut self.0);
        let error =
            || object_store::Error::Generic { store: "test", source: "no space left on device".into() };
        Box::pin(ready(if full { Err(error()) } else { Ok(()) }))
    }

    fn complete<'life0, 'async_trait>(&'life0 mut self) -> Boxed<'async_trait, PutResult>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        unreachable!("an upload that lost a part is not completed")
    }

    fn abort<'life0, 'async_trait>(&'life0 mut self) -> Boxed<'async_trait, ()>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(ready(Ok(())))
    }
}

#[tokio::test]
async fn an_upload_that_lost_a_part_to_a_full_disk_cannot_be_gone_on_with() {
    let (uploads, _) = uploads(100, 10);
    let mut lease = uploads.start("a").await.unwrap();
    let id = lease.status().id;
    let writer = WriteMultipart::new_with_chunk_size(Box::new(FullAtFirst(true)), 1);
    lease.session = Some(Session { writer, hasher: Sha256::new(), size: 0 });
    assert!(matches!(lease.receive(chunks(&["a", "b", "c"])).await, Err(RegistryError::Objects(_))));
    drop(lease);
    assert!(matches!(uploads.take("a", &id), Err(RegistryError::UploadUnknown)));
    assert_eq!(uploads.count(), 0);
}
