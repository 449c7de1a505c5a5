//! Users in Redis: one key each, `users:<id>`, with the user as JSON.

use std::time::Duration;

use redis::{
    AsyncCommands, Client, RedisResult,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use tokio::time::timeout;

use crate::{failure::Failure, user::User};

/// For one connection attempt, and for one answer.
const STEP_TIMEOUT: Duration = Duration::from_secs(1);
/// For a whole call, whatever the steps add up to.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// Users in Redis. Clones share one connection.
#[derive(Clone)]
pub(crate) struct Store(ConnectionManager);

impl Store {
    /// Does not connect yet: a function starts, and says what is wrong, without its database.
    pub(crate) fn new(url: &str) -> RedisResult<Self> {
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(STEP_TIMEOUT))
            .set_response_timeout(Some(STEP_TIMEOUT))
            .set_number_of_retries(1);
        ConnectionManager::new_lazy_with_config(Client::open(url)?, config).map(Self)
    }

    pub(crate) async fn insert(&self, user: &User) -> Result<(), Failure> {
        let json = serde_json::to_string(user).map_err(|error| Failure::Internal(error.to_string()))?;
        let mut redis = self.0.clone();
        // Never over another user, however unlikely it is that an id comes twice.
        let fresh: bool = bounded(redis.set_nx(key(&user.id), json)).await?;
        if fresh { Ok(()) } else { Err(Failure::Internal("the new id was already taken".to_owned())) }
    }

    pub(crate) async fn get(&self, id: &str) -> Result<Option<User>, Failure> {
        let mut redis = self.0.clone();
        let json: Option<String> = bounded(redis.get(key(id))).await?;
        json.map(|json| serde_json::from_str(&json).map_err(|error| Failure::Internal(error.to_string())))
            .transpose()
    }
}

async fn bounded<T>(call: impl Future<Output = RedisResult<T>>) -> Result<T, Failure> {
    match timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Failure::StoreAway(error.to_string())),
        Err(_) => Err(Failure::StoreAway("no answer in time".to_owned())),
    }
}

fn key(id: &str) -> String {
    format!("users:{id}")
}
