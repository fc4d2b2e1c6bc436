// Passkeys: what the browser must do itself. The page works without them.
"use strict";

async function asked(address, form) {
  const answer = await fetch(address, { method: "POST", body: new FormData(form), redirect: "error" });
  if (!answer.ok) throw new Error(String(answer.status));
  return answer.json();
}

const signIn = document.querySelector("form[data-touch]");
signIn?.addEventListener("submit", async (event) => {
  if (signIn.elements.credential.value) return;
  event.preventDefault();
  delete signIn.dataset.sent;
  const said = signIn.querySelector("[data-said]");
  try {
    const options = await asked(signIn.dataset.touch, signIn);
    const publicKey = PublicKeyCredential.parseRequestOptionsFromJSON(options);
    const credential = await navigator.credentials.get({ publicKey });
    signIn.elements.credential.value = JSON.stringify(credential.toJSON());
    signIn.submit();
  } catch {
    said.textContent = said.dataset.failed;
  }
});

const make = document.querySelector("form[data-touch-new]");
make?.addEventListener("submit", async (event) => {
  event.preventDefault();
  delete make.dataset.sent;
  const said = make.querySelector("[data-said]");
  try {
    const options = await asked(`${make.dataset.touchNew}/ask`, make);
    const publicKey = PublicKeyCredential.parseCreationOptionsFromJSON(options);
    const credential = await navigator.credentials.create({ publicKey });
    const fields = new FormData(make);
    fields.set("credential", JSON.stringify(credential.toJSON()));
    const answer = await fetch(make.dataset.touchNew, { method: "POST", body: fields, redirect: "error" });
    said.textContent = (await answer.json()).said;
  } catch (error) {
    said.textContent = error.message;
  }
});
