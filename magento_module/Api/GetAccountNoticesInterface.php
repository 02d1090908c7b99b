<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Api;

/**
 * Returns the security notices of a customer.
 *
 * @api
 */
interface GetAccountNoticesInterface
{
    /**
     * Return the customer's notices that are not withdrawn: unread ones first, the newest first of each.
     *
     * @param int $customerId
     * @return \Tocsin\BreachNotification\Api\Data\AccountNoticeInterface[]
     */
    public function execute(int $customerId): array;
}
