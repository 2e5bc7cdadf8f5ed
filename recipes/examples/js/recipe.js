// A recipe in JavaScript: starts with `[vary] k` and doubles it `[vary] doublings` times.
//
// README.md next to it says how to build and use it.

export const planner = {
    describe() {
        return {
            name: "doublings",
            summary: "Doubles k several times, starting from a first value.",
            settings: [
                { name: "k", kind: "int", default: "16", summary: "the first number of active latents" },
                { name: "doublings", kind: "int", default: "2", summary: "how often it is doubled" },
            ],
        };
    },

    // An exception is the recipe's error: `throw "message"` is shown to the user.
    plan(request) {
        const { k = 16, doublings = 2 } = JSON.parse(request.vary);
        if (!Number.isInteger(doublings) || doublings < 0) {
            throw `[vary] doublings must be a whole number, got ${JSON.stringify(doublings)}`;
        }
        const jobs = Array.from({ length: doublings + 1 }, (_, n) => job({ k: k * 2 ** n }));
        return { jobs, done: true };
    },
};

function job(overrides) {
    const name = Object.entries(overrides).map(([key, value]) => `${key}=${value}`).join(",");
    return { name, note: undefined, overrides: JSON.stringify(overrides) };
}
