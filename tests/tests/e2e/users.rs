//! The users example: create and get, with a Redis of its own.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Service};
use kube::api::PostParams;
use pilotlight_tests::{Scope, await_condition, image, objects::example, request, scoped};
use serde_json::{Value, json};

async fn start_redis(scope: &Scope) -> Result<()> {
    let labels = json!({ "app": "redis" });
    let deployment: Deployment = serde_json::from_value(json!({
        "metadata": { "name": "redis" },
        "spec": {
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": {
                    "securityContext": {
                        "runAsNonRoot": true, "runAsUser": 999, "seccompProfile": { "type": "RuntimeDefault" },
                    },
                    "containers": [{
                        "name": "redis",
                        "image": image("redis"),
                        "args": ["--save", "", "--dir", "/tmp", "--protected-mode", "no"],
                        "securityContext": {
                            "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] },
                        },
                    }],
                },
            },
        },
    }))?;
    let service: Service = serde_json::from_value(json!({
        "metadata": { "name": "redis" },
        "spec": { "selector": labels, "ports": [{ "port": 6379 }] },
    }))?;
    scope.api().create(&PostParams::default(), &deployment).await?;
    scope.api().create(&PostParams::default(), &service).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_created_found_and_refused() -> Result<()> {
    scoped(async |scope| {
        start_redis(scope).await?;
        let url = format!("redis://redis.{}.svc:6379/0", scope.namespace);
        let env = json!([{ "name": "REDIS_URL", "value": url }]);
        let caller = scope.deploy("users", example("users", json!({ "env": env }))).await?;
        let post =
            async |body: Value| caller.send(request(http::Method::POST, "/users", body.to_string())).await;
        let ada = json!({ "name": "Ada", "email": "ada@example.com" });
        let created = await_condition(Duration::from_secs(30), "a user can be created", async || {
            let reply = post(ada.clone()).await?;
            ensure!(reply.status == 201, "{}", reply.describe());
            Ok(reply)
        })
        .await?;
        let user = created.json()?;
        ensure!(user["name"] == "Ada" && user["createdAt"].is_string(), "{user}");
        let path = format!("/users/{}", user["id"].as_str().unwrap_or_default());
        ensure!(created.header("location") == path, "{:?}", created.headers);
        let found = caller.get(&path).await?;
        ensure!(found.status == 200 && found.json()? == user, "{}", found.describe());
        let refused = post(json!({ "name": "Ada", "email": "nonsense" })).await?;
        ensure!(refused.status == 400 && refused.json()?["field"] == "email", "{}", refused.describe());
        let missing = caller.get(&format!("/users/{}", "0".repeat(32))).await?;
        ensure!(missing.status == 404 && missing.json()?["message"].is_string(), "{}", missing.describe());
        Ok(())
    })
    .await
}
