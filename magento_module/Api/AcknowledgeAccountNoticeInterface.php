<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Api;

/**
 * Notes that a customer has read a security notice; that is the proof that it arrived.
 *
 * @api
 */
interface AcknowledgeAccountNoticeInterface
{
    /**
     * Note the first reading of the notice and return it; a repeat keeps the first time.
     *
     * @param int $customerId
     * @param string $noticeId
     * @return \Tocsin\BreachNotification\Api\Data\AccountNoticeInterface
     * @throws \Magento\Framework\Exception\NoSuchEntityException if this customer has no such notice, or it is withdrawn
     */
    public function execute(int $customerId, string $noticeId): \Tocsin\BreachNotification\Api\Data\AccountNoticeInterface;
}
