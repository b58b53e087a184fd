/** What is the shop's own: put your values here. The rest of the page can be copied as it is. */

const query = new URLSearchParams(location.search);

export default {
  /** Where the gateway is; it must let in this page's origin (SECKILL_CORS_ORIGINS). */
  gateway: "https://gate.example",
  sale: query.get("sale") ?? "sneakers",

  /** The login token of the buyer of the shop's session; null for one who is not signed in. */
  async login() {
    const response = await fetch("/login-token", { cache: "no-store" });
    return response.ok ? response.text() : null;
  },
  /** Where buyers sign in. */
  signIn: "/sign-in",

  /** How buyers may pay, the usual way first: "card", "wallet". */
  methods: ["card", "wallet"],
  /**
   * What is sent with a payment by card: the token that the provider's own form gave for the card.
   * Card numbers never touch this page.
   */
  async card() {
    return {};
  },
};
